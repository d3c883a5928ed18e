CREATE SCHEMA payments;

CREATE TABLE payments.payments (
    id uuid PRIMARY KEY,
    order_id uuid NOT NULL UNIQUE,
    status text NOT NULL CHECK (status IN ('authorized', 'declined')),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency char(3) NOT NULL,
    failure_code text,
    created_at timestamptz NOT NULL DEFAULT now()
);
