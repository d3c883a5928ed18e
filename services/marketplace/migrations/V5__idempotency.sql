-- What was asked for under a key, so that the key is not taken for another order.
ALTER TABLE orders.http_idempotency ADD COLUMN request jsonb;
