//! Requests in, rows out.

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use deadpool_postgres::Pool;
use serde_json::{Value, json};
use tailwater_marketplace::{catalog, database, inventory, orders, payments, serve};
use tokio_postgres::NoTls;
use tower::ServiceExt as _;
use uuid::Uuid;

#[tokio::test]
async fn an_order_and_its_event_are_written_together_and_once_per_key() -> anyhow::Result<()> {
    let app = App::start().await?;
    let order = json!({
        "customer_id": Uuid::now_v7(), "currency": "EUR",
        "items": [{ "product_id": Uuid::now_v7(), "sku": "s", "title": "t", "quantity": 2, "unit_price_minor": 150 }],
    });
    let first = app.send("POST", "/orders", Some("key-1"), order.clone()).await?;
    let again = app.send("POST", "/orders", Some("key-1"), order.clone()).await?;
    assert_eq!(first, again);
    assert_eq!((first.0, &first.1["total_minor"]), (StatusCode::ACCEPTED, &json!(300)));
    let mut other = order.clone();
    other["items"][0]["quantity"] = json!(3);
    let (status, problem) = app.send("POST", "/orders", Some("key-1"), other).await?;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(app.count("orders.orders").await?, 1);
    assert_eq!(app.count("orders.outbox").await?, 1);
    let id = first.1["id"].as_str().context("an id")?.to_owned();
    app.send("DELETE", &format!("/orders/{id}"), None, json!(null)).await?;
    app.send("DELETE", &format!("/orders/{id}"), None, json!(null)).await?;
    assert_eq!(app.count("orders.outbox").await?, 2, "cancelled once, however often asked");
    let pay = json!({ "order_id": id, "amount_minor": 300, "currency": "EUR" });
    let (_, payment) = app.send("POST", "/payments/authorize", None, pay.clone()).await?;
    assert_eq!(payment["status"], "declined");
    app.send("POST", "/payments/authorize", None, pay).await?;
    assert_eq!(app.count("payments.outbox").await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_stored_or_streamed_is_the_clients_mistake() -> anyhow::Result<()> {
    let app = App::start().await?;
    let product = |change: &dyn Fn(&mut Value)| {
        let mut product = json!({
            "sku": "s1", "title": "Lamp", "price": { "amount_minor": 100, "currency": "EUR" }
        });
        change(&mut product);
        product
    };
    let bad = [
        product(&|p| p["title"] = json!("a\u{0}b")),
        product(&|p| p["brand"] = json!("b".repeat(201))),
        product(&|p| p["attributes"] = json!({ "a": "\u{0}" })),
        product(&|p| p["attributes"] = json!({ "a": "x".repeat(300_000) })),
        product(&|p| p["tags"] = json!(vec!["t"; 101])),
    ];
    for body in bad {
        let (status, problem) = app.send("POST", "/products", None, body).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    }
    assert_eq!(app.count("catalog.products").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_product_and_its_document_change_together() -> anyhow::Result<()> {
    let app = App::start().await?;
    let product = json!({ "sku": "s1", "title": "Lamp", "price": { "amount_minor": 100, "currency": "EUR" } });
    let (status, created) = app.send("POST", "/products", None, product.clone()).await?;
    assert_eq!(status, StatusCode::CREATED);
    let path = format!("/products/{}", created["id"].as_str().context("an id")?);
    let (status, _) = app.send("POST", "/products", None, product).await?;
    assert_eq!(status, StatusCode::CONFLICT, "the sku is taken");
    app.send("PATCH", &path, None, json!({ "title": "Better lamp" })).await?;
    app.send(
        "PUT",
        &format!("{path}/price"),
        None,
        json!({ "amount_minor": 250, "currency": "EUR" }),
    )
    .await?;
    let (_, document) = app.send("GET", &path, None, json!(null)).await?;
    assert_eq!(document["title"], "Better lamp");
    assert_eq!(document["price"]["amount_minor"], 250);
    app.send("DELETE", &path, None, json!(null)).await?;
    assert_eq!(app.count("catalog.product_documents").await?, 0);
    assert_eq!(app.send("GET", &path, None, json!(null)).await?.0, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn stock_adds_up_under_concurrent_receipts_and_never_falls_below_zero() -> anyhow::Result<()>
{
    let app = App::start().await?;
    let product = Uuid::now_v7();
    let receipt = json!({ "product_id": product, "warehouse_id": 1, "quantity": 3 });
    let receipts = (0..20).map(|_| app.send("POST", "/stock/receipts", None, receipt.clone()));
    for answer in futures_join(receipts).await {
        ensure!(answer?.0 == StatusCode::NO_CONTENT);
    }
    let (_, stock) = app.send("GET", &format!("/stock/{product}"), None, json!(null)).await?;
    assert_eq!(stock[0]["on_hand"], 60);
    let too_much = json!({ "product_id": product, "warehouse_id": 1, "delta": -61 });
    assert_eq!(
        app.send("POST", "/stock/adjustments", None, too_much).await?.0,
        StatusCode::CONFLICT
    );
    Ok(())
}

#[tokio::test]
async fn bad_requests_name_the_field_and_change_nothing() -> anyhow::Result<()> {
    let app = App::start().await?;
    let bad = [
        ("/orders", json!({}), "customer_id"),
        (
            "/orders",
            json!({ "customer_id": Uuid::now_v7(), "currency": "eur", "items": [] }),
            "currency",
        ),
        (
            "/orders",
            json!({ "customer_id": Uuid::now_v7(), "currency": "EUR", "items": [] }),
            "items",
        ),
        (
            "/products",
            json!({ "sku": "", "title": "t", "price": { "amount_minor": 1, "currency": "EUR" } }),
            "sku",
        ),
        (
            "/products",
            json!({ "sku": "s", "title": "t", "price": { "amount_minor": 0, "currency": "EUR" } }),
            "amount_minor",
        ),
        ("/stock/receipts", json!({ "product_id": "x", "warehouse_id": 1, "quantity": 1 }), "body"),
        (
            "/payments/authorize",
            json!({ "order_id": Uuid::now_v7(), "amount_minor": -1, "currency": "EUR" }),
            "amount_minor",
        ),
    ];
    for (path, body, field) in bad {
        let (status, problem) = app.send("POST", path, None, body).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        let detail = problem["detail"].as_str().context("a detail")?;
        assert!(detail.contains(field), "{path}: {detail}");
    }
    assert_eq!(app.count("orders.outbox").await?, 0);
    Ok(())
}

struct App {
    pool: Pool,
    router: Router,
}

impl App {
    async fn start() -> anyhow::Result<Self> {
        let server = std::env::var("TAILWATER_TEST_POSTGRES")
            .context("`TAILWATER_TEST_POSTGRES` is not set; run the tests with `make test`")?;
        let name = format!("market_{}", Uuid::new_v4().simple());
        let (client, connection) = tokio_postgres::connect(&server, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let url = format!("{server}/{name}");
        database::migrate(&url).await?;
        database::migrate(&url).await.context("migrating again")?;
        let pool = database::pool(&url)?;
        let router = catalog::router(pool.clone())
            .merge(inventory::router(pool.clone()))
            .merge(orders::router(pool.clone()))
            .merge(payments::router(pool.clone()));
        Ok(Self { pool, router: serve::limited(router) })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response =
            self.router.clone().oneshot(request.body(Body::from(body.to_string()))?).await?;
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        Ok((status, body))
    }

    async fn count(&self, table: &str) -> anyhow::Result<i64> {
        let client = self.pool.get().await?;
        Ok(client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?.get(0))
    }
}

async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut done = Vec::new();
    let mut open: Vec<_> = futures.map(Box::pin).collect();
    // Every request is under way before the first is awaited.
    std::future::poll_fn(|cx| {
        open.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if open.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
