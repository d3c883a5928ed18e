//! Real HTTP traffic: shoppers, sellers and warehouse clerks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Products the load keeps on sale; more are deleted again.
const PRODUCTS_MAX: usize = 200;
const WAREHOUSE: i64 = 1;

/// Where the services listen, with scheme.
#[derive(Clone, Debug)]
pub struct Services {
    /// Products and their documents.
    pub catalog: String,
    /// Stock.
    pub inventory: String,
    /// Orders.
    pub orders: String,
    /// Payments.
    pub payments: String,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// HTTP requests answered with success.
    pub requests: u64,
    /// Orders placed.
    pub orders: u64,
    /// Products created, changed or deleted.
    pub products: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, orders, products } = self;
        write!(f, "{orders} orders, {products} product changes, {requests} requests")
    }
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    orders: AtomicU64,
    products: AtomicU64,
}

impl Counters {
    fn done(&self) -> Done {
        Done {
            requests: self.requests.load(Ordering::Relaxed),
            orders: self.orders.load(Ordering::Relaxed),
            products: self.products.load(Ordering::Relaxed),
        }
    }
}

/// Drives traffic for `length` with so many clients, and tells `show` how far it came.
///
/// # Errors
/// Any answer of a service that is not the expected one ends the traffic.
pub async fn run(
    services: Services,
    length: Duration,
    clients: usize,
    mut show: impl FnMut(Done),
) -> anyhow::Result<Done> {
    let counters = Arc::new(Counters::default());
    let end = Instant::now() + length;
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let client = Client::new(services.clone(), counters.clone());
        set.spawn(async move { client.work_until(end).await });
    }
    let mut tick = tokio::time::interval(SHOW_EVERY);
    loop {
        tokio::select! {
            ended = set.join_next() => match ended {
                None => return Ok(counters.done()),
                Some(ended) => ended.context("a client panicked")??,
            },
            _ = tick.tick() => show(counters.done()),
        }
    }
}

/// One person after another, each doing one thing.
struct Client {
    http: reqwest::Client,
    services: Services,
    counters: Arc<Counters>,
    random: StdRng,
    products: Vec<String>,
}

impl Client {
    fn new(services: Services, counters: Arc<Counters>) -> Self {
        Self {
            http: reqwest::Client::new(),
            services,
            counters,
            random: StdRng::from_os_rng(),
            products: Vec::new(),
        }
    }

    async fn work_until(mut self, end: Instant) -> anyhow::Result<()> {
        self.create_product().await?;
        while Instant::now() < end {
            match self.random.random_range(0..100) {
                0..10 if self.products.len() < PRODUCTS_MAX => self.create_product().await?,
                10..25 => self.change_product().await?,
                25..27 if self.products.len() > 1 => self.delete_product().await?,
                27..40 => self.receive_stock().await?,
                _ => self.place_order().await?,
            }
        }
        Ok(())
    }

    async fn create_product(&mut self) -> anyhow::Result<()> {
        let number: u32 = self.random.random();
        let body = json!({
            "sku": format!("sku-{}-{number:08x}", uuid::Uuid::now_v7()),
            "title": format!("Lamp \"{number}\" with a näme"),
            "description": self.long_text(),
            "brand": "Tidewater",
            "tags": ["lamp", "brass"],
            "attributes": { "watts": number % 100, "colours": ["brass", "green"] },
            "price": { "amount_minor": 100 + number % 10_000, "currency": "EUR" },
        });
        let url = format!("{}/products", self.services.catalog);
        let created = self.send(self.http.post(url).json(&body)).await?;
        let id = created["id"].as_str().context("a created product has an id")?.to_owned();
        self.products.push(id.clone());
        self.counters.products.fetch_add(1, Ordering::Relaxed);
        self.receipt(&id, 1_000).await
    }

    async fn change_product(&mut self) -> anyhow::Result<()> {
        let id = self.any_product()?;
        let (url, body) = if self.random.random_bool(0.5) {
            let amount: u32 = self.random.random_range(100..20_000);
            (format!("products/{id}/price"), json!({ "amount_minor": amount, "currency": "EUR" }))
        } else {
            let title = format!("Lamp, revised {}", self.random.random::<u16>());
            (format!("products/{id}"), json!({ "title": title }))
        };
        let url = format!("{}/{url}", self.services.catalog);
        let request =
            if body.get("title").is_some() { self.http.patch(url) } else { self.http.put(url) };
        self.send(request.json(&body)).await?;
        self.counters.products.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn delete_product(&mut self) -> anyhow::Result<()> {
        let at = self.random.random_range(0..self.products.len());
        let id = self.products.swap_remove(at);
        let url = format!("{}/products/{id}", self.services.catalog);
        self.send(self.http.delete(url)).await?;
        self.counters.products.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn receive_stock(&mut self) -> anyhow::Result<()> {
        let id = self.any_product()?;
        let quantity = self.random.random_range(1..100);
        self.receipt(&id, quantity).await
    }

    async fn place_order(&mut self) -> anyhow::Result<()> {
        let id = self.any_product()?;
        let quantity = self.random.random_range(1..5);
        let unit_price: u32 = self.random.random_range(100..20_000);
        let body = json!({
            "customer_id": uuid::Uuid::now_v7(),
            "currency": "EUR",
            "items": [{
                "product_id": id,
                "sku": "lamp",
                "title": "Lamp",
                "quantity": quantity,
                "unit_price_minor": unit_price,
            }],
        });
        let url = format!("{}/orders", self.services.orders);
        let key = uuid::Uuid::now_v7().to_string();
        let order =
            self.send(self.http.post(url).header("idempotency-key", key).json(&body)).await?;
        self.counters.orders.fetch_add(1, Ordering::Relaxed);
        let order_id = order["id"].as_str().context("a placed order has an id")?.to_owned();
        let amount = i64::from(unit_price) * i64::from(quantity);
        let body = json!({ "order_id": order_id, "amount_minor": amount, "currency": "EUR" });
        let url = format!("{}/payments/authorize", self.services.payments);
        self.send(self.http.post(url).json(&body)).await?;
        if self.random.random_bool(0.1) {
            let url = format!("{}/orders/{order_id}", self.services.orders);
            self.send(self.http.delete(url)).await?;
        }
        Ok(())
    }

    async fn receipt(&self, product: &str, quantity: i64) -> anyhow::Result<()> {
        let body =
            json!({ "product_id": product, "warehouse_id": WAREHOUSE, "quantity": quantity });
        let url = format!("{}/stock/receipts", self.services.inventory);
        self.send(self.http.post(url).json(&body)).await?;
        Ok(())
    }

    fn any_product(&mut self) -> anyhow::Result<String> {
        self.products.choose(&mut self.random).cloned().context("no product is on sale")
    }

    /// Long enough and random enough that Postgres stores it out of line.
    fn long_text(&mut self) -> String {
        (0..600).map(|_| format!("{:016x} ", self.random.random::<u64>())).collect()
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let request = request.build()?;
        let name = format!("{} {}", request.method(), request.url());
        let answer = self.http.execute(request).await.with_context(|| name.clone())?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| name.clone())?;
        ensure!(status.is_success(), "{name} answered {status}: {text}");
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        if text.is_empty() {
            return Ok(Value::Null);
        }
        match serde_json::from_str(&text) {
            Ok(value) => Ok(value),
            Err(error) => bail!("{name} answered no JSON: {error}"),
        }
    }
}
