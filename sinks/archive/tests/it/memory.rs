//! A store in memory that keeps strictly to its one rule: a key is created once, unless it is told to be careless. How
//! requests fare is left to chance.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tailwater_sinks_archive::chain::Link;
use tailwater_sinks_archive::{Listed, Objects, Put, StoreError, layout};
use tailwater_sinks_worker::contract::Trouble;
use tokio::time::sleep;

#[derive(Clone)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, (Bytes, HashMap<String, String>)>,
    random: StdRng,
    /// How likely a request goes wrong.
    pub(crate) faults: f64,
    /// Whether keys are said to be taken that are not there, as by a delete marker.
    pub(crate) hides: bool,
    /// Whether what is created takes the place of what stands there.
    pub(crate) replaces: bool,
    /// What the next creates meet.
    pub(crate) troubles: VecDeque<Trouble>,
    /// How many they have met.
    pub(crate) met: usize,
}

impl Memory {
    pub(crate) fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let state = State {
            objects: BTreeMap::new(),
            random,
            faults: 0.0,
            hides: false,
            replaces: false,
            troubles: VecDeque::new(),
            met: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("whole")
    }

    /// How long a request is under way, one way, and whether it goes wrong.
    fn chance(&self) -> (Duration, bool) {
        let mut state = self.state();
        let faults = state.faults;
        let way = Duration::from_millis(state.random.random_range(0..20));
        (way, state.random.random_bool(faults))
    }

    fn put(&self, key: &str, body: Bytes, metadata: HashMap<String, String>) -> Put {
        let mut state = self.state();
        if state.hides || (state.objects.contains_key(key) && !state.replaces) {
            return Put::Taken;
        }
        state.objects.insert(key.to_owned(), (body, metadata));
        Put::Created
    }

    /// A request that only looks.
    async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, StoreError> {
        let (way, fails) = self.chance();
        sleep(way).await;
        let seen = look(&self.state());
        sleep(way).await;
        if fails { Err(silence()) } else { Ok(seen) }
    }
}

fn silence() -> StoreError {
    StoreError::Unavailable {
        endpoint: "memory".into(),
        doing: "testing".into(),
        why: "the test says so".into(),
    }
}

impl Objects for Memory {
    async fn create(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        _: &str,
    ) -> Result<Put, StoreError> {
        let trouble = {
            let mut state = self.state();
            let trouble = state.troubles.pop_front();
            state.met += usize::from(trouble.is_some());
            trouble
        };
        match trouble {
            Some(Trouble::LostReply) => {
                self.put(key, body, metadata);
                return Ok(Put::Unclear(silence()));
            }
            Some(Trouble::Fails) => return Ok(Put::Unclear(silence())),
            Some(Trouble::Slow) => sleep(Duration::from_millis(50)).await,
            None => {}
        }
        let (way, fails) = self.chance();
        let (fault, late) = {
            let mut state = self.state();
            (state.random.random_range(0..5), state.random.random_range(1..90_000))
        };
        if fails && fault == 0 {
            // On its way for long after everybody has given it up.
            let (memory, key) = (self.clone(), key.to_owned());
            tokio::spawn(async move {
                sleep(Duration::from_millis(late)).await;
                memory.put(&key, body, metadata);
            });
            sleep(way).await;
            return Ok(Put::Unclear(silence()));
        }
        sleep(way).await;
        match (fails, fault) {
            (true, 1) => return Ok(Put::Unclear(silence())),
            (true, 2) => return Ok(Put::Conflict(silence())),
            _ => {}
        }
        let put = self.put(key, body, metadata);
        sleep(way).await;
        Ok(if fails { Put::Unclear(silence()) } else { put })
    }

    async fn link(&self, key: &str) -> Result<Option<Link>, StoreError> {
        let found = self.look(|state| state.objects.get(key).map(|(_, metadata)| metadata.clone()));
        let link = |metadata| Link::from_metadata(&metadata).expect("only links are looked at");
        Ok(found.await?.map(link))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.look(|state| state.objects.get(key).map(|(body, _)| body.clone())).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = |(key, (body, _)): (&String, &(Bytes, _))| Listed {
            key: key.clone(),
            bytes: body.len() as u64,
            etag: None,
        };
        let listed = self.look(|state| {
            state.objects.iter().filter(|(key, _)| key.starts_with(prefix)).map(listed).collect()
        });
        let listed: Vec<Listed> = listed.await?;
        let is_ours = |object: &Listed| layout::parse(&object.key).is_some();
        assert!(!prefix.starts_with("data/") || listed.iter().all(is_ours));
        Ok(listed)
    }
}
