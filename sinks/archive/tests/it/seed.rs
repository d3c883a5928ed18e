//! Where chance comes from: printed, and replayed when it is given.

pub(crate) fn new() -> u64 {
    let given = std::env::var("TAILWATER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
    seed
}
