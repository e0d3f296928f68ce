-- 200,000 rows for the 24 tables of 010_schema.sql, the same ones every time; the end of this file counts them. The
-- triggers stay on, and the rows that they write to audit.change count too. Works in one transaction and without.

SET client_encoding = 'UTF8'; SET timezone = 'UTC';
SET shop.now = '2025-01-01 12:00+00'; SET shop.actor = 'seed';
CREATE FUNCTION pg_temp.pick(n bigint, VARIADIC words text[]) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN words[1 + n % cardinality(words)];
CREATE FUNCTION pg_temp.home(n bigint) RETURNS postal_address LANGUAGE sql IMMUTABLE
    RETURN (pg_temp.pick(n, 'Hauptstraße ', 'Rue de l''Église ', 'ul. Długa, ', 'Strøget ') || n % 97, pg_temp.pick(n, 'Köln',
        'Liège', 'Łódź', 'København'), lpad((n * 7)::text, 5, '0'), pg_temp.pick(n, 'DE', 'BE', 'PL', 'DK'))::postal_address;

-- Customers
INSERT INTO country VALUES ('BE', 'België / Belgique'), ('CI', 'Côte d''Ivoire'), ('DE', 'Deutschland'), ('DK', 'Danmark'),
    ('GR', 'Ελλάδα'), ('IL', 'ישראל'), ('JP', '日本'), ('PL', 'Polska'), ('TR', 'Türkiye'), ('VN', 'Việt Nam');
INSERT INTO customer (public_id, email, name, tags, preferences, referred_by)
SELECT md5('customer ' || n)::uuid, 'Customer' || n || pg_temp.pick(n, '@example.com', '@bücher.example'),
    pg_temp.pick(n, 'Ada', 'Zoë', 'Łukasz', '美咲', 'José') || ' ' || pg_temp.pick(n / 5, 'O''Neil', 'Müller', 'Nguyễn'),
    CASE WHEN n % 50 = 0 THEN ARRAY['vip', NULL] WHEN n % 3 = 0 THEN ARRAY['newsletter'] ELSE '{}' END,
    jsonb_build_object('language', pg_temp.pick(n, 'de', 'en'), 'dark', n % 2 = 0, 'sizes', ARRAY[n % 9, NULL]),
    CASE WHEN n % 4 = 0 THEN n / 4 END
FROM generate_series(1, 10000) AS n;
INSERT INTO customer (public_id, email, name, tags, preferences, note) VALUES
(md5('1')::uuid, 'o''brien@example.com', 'Miles "Chief" O''Brien', '{}', '{}', ''),
(md5('2')::uuid, 'bobby@example.com', 'Robert''); DROP TABLE "Order";--', '{"a,b","{c}","say \"d\"","e\\f","NULL",NULL,""," "}',
    '{"": [[], {}, [null, [1, [2, [3.140]]]]], "big": 123456789012345678901234567890, "small": 1e-20}', NULL),
(md5('3')::uuid, 'copy@example.com', '\N', '{"\\N","\\."}', '{"path": "C:\\temp\\new", "tab": "\t", "quote": "\""}',
    E'A line.\n\\.\n\\N\n\tA tab, a return\r\n, a bell \x07 and a back\\slash\\'),
(md5('4')::uuid, 'family@example.com', '👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺', '{🦊,"👍🏽"}', '{"emoji": "\ud83d\ude00", "π": 3.14}',
    $note$It's $$dollar$$ quoted: ${x} %s %(y)s %% :name :'v' ? -- no comment /* here */; \q$note$),
(md5('5')::uuid, 'words@example.com', 'שלום עולם – مرحبا', '{NULL}', '{"a": {"b": {"c": [true, false, null, {"d": "e"}]}}}',
    U&'e\0301 is not \00e9; \200b, \00a0 and \feff are here'),
(md5('6')::uuid, 'long@example.com', repeat('Ünïcödé ', 30), '{}', jsonb_build_object('long', repeat('x', 30000)), E'\n');
INSERT INTO customer_address (customer_id, address, is_default)
SELECT (n - 1) % 10000 + 1, pg_temp.home(n), n <= 10000 FROM generate_series(1, 12000) AS n;

-- Sellers and the catalogue
DO $$ BEGIN  -- a block is one transaction: the products that sellers feature come after the sellers
    INSERT INTO category SELECT n, CASE WHEN n > 6 THEN (n - 1) % 6 + 1 END,
        CASE n WHEN 0 THEN 'Other' ELSE pg_temp.pick(n, 'Möbel', 'Kitchen', 'Jardin', 'おもちゃ', 'Tools') || ' ' || n END
    FROM generate_series(0, 60) AS n;
    PERFORM setval('category_id_seq', 60);
    INSERT INTO seller (name, country, featured_product_id)
    SELECT pg_temp.pick(n, 'Groß & Söhne', 'L''Atelier', 'Smith "Bros."') || ' ' || n, pg_temp.pick(n, 'DE', 'BE', 'JP'),
        CASE WHEN n % 3 > 0 THEN n END FROM generate_series(1, 200) AS n;
    INSERT INTO product (seller_id, category_id, title, description, images, attributes, status)
    SELECT (n - 1) % 200 + 1, n % 61,
        pg_temp.pick(n, 'Blue', 'Größerer', 'Tiny') || ' ' || pg_temp.pick(n / 3, 'chair', 'teapot', 'robot') || ' ' || n,
        'Made by hand of ' || pg_temp.pick(n / 7, 'oak', 'café-brown clay', 'brass') || E'.\nPolished, shipped and ready.',
        CASE WHEN n % 4 > 0 THEN ARRAY['/img/' || n || '.jpg', '/img/' || n || ' (2).jpg'] ELSE '{}' END,
        jsonb_build_object('colour', pg_temp.pick(n, 'blue', 'rot', '青'), 'size', jsonb_build_object('cm', ARRAY[n % 90, n % 70])),
        pg_temp.pick(n, 'listed', 'listed', 'draft', 'retired')::product_status
    FROM generate_series(1, 3000) AS n;
END $$;
INSERT INTO variant (product_id, sku, "größe", price)
SELECT (n + 1) / 2, 'AA-' || lpad(n::text, 6, '0'), pg_temp.pick(n, 'groß', 'klein', NULL), 5 + n * 37 % 19900 / 100.0
FROM generate_series(1, 6000) AS n;
INSERT INTO price_period SELECT id, valid, price * factor
FROM variant, (VALUES (tstzrange(NULL, '2024-01-01'), 0.9), ('[2024-01-01,)', 1)) AS period (valid, factor);
INSERT INTO coupon (code, percent, "limit", valid)
SELECT 'SAVE' || n, n / 2.0, nullif(n % 4, 0) * 100, tstzrange('2024-01-01', timestamptz '2024-01-01' + n * interval '7 days')
FROM generate_series(1, 46) AS n;
INSERT INTO coupon VALUES ('100 % "off"', 100, 0, 'empty', 'empty', '{}', 'null'),
    ('naïve\', 0.01, NULL, '[-infinity,infinity]', '(,)', '{AA-000001,ZZ-999999}', '""'),
    ('ẞ', 5, 2147483647, '["0044-03-15 12:00:00.000001+00 BC",)', '[-5,5]', '{NULL}', '[{"first order": [1, {"or": []}]}]'),
    ('', 1, -1, DEFAULT, DEFAULT, DEFAULT, NULL), ('gone', 1, 0, DEFAULT, DEFAULT, DEFAULT, NULL);

-- Warehouses
INSERT INTO warehouse (name, position, open_hours) VALUES ('Köln-Süd', '(50.9,0.1)', DEFAULT), ('Łódź', NULL, '{[6,12),[13,22)}'),
    ('Main', '(1e-300,-0)', '{}'), ('main', '(NaN,Infinity)', '{(,)}'), ('倉庫', '(35.6762,139.6503)', DEFAULT);
INSERT INTO stock SELECT n % 5 * 10 + 10, (n + 1) / 2, n % 100 + 20, n % 7 FROM generate_series(1, 12000) AS n;
INSERT INTO stock_movement (warehouse_id, variant_id, quantity, reason, at)
SELECT warehouse_id, variant_id, change, reason::movement_reason, '2024-01-01'::timestamptz + variant_id * interval '1 hour'
FROM stock, LATERAL (VALUES (on_hand + 5, 'received'), (-5, 'sold')) AS moved (change, reason)
WHERE reason = 'received' OR variant_id % 4 = 0 ORDER BY variant_id, warehouse_id, reason;

-- Orders and money
INSERT INTO "Order" (customer_id, status, coupon, ship_to, "gift note", placed_at)
SELECT (n - 1) % 10000 + 1, status::order_status, CASE WHEN n % 20 = 0 THEN 'SAVE' || n % 46 + 1 END, pg_temp.home(n),
    CASE WHEN n % 500 = 0 THEN E'„Alles Gute!“\n\t– Ünal & Søren 🎂' END,
    CASE WHEN status <> 'cart' THEN timestamptz '2024-01-01' + n * interval '41 minutes' END
FROM generate_series(1, 12000) AS n, LATERAL pg_temp.pick(n, 'cancelled', 'cart', 'placed', 'paid', 'shipped', 'shipped',
    'delivered', 'delivered', 'delivered', 'delivered', 'delivered', 'returned') AS status;
INSERT INTO "Order Line" (order_id, line_no, variant_id, quantity, "unit price", discount)
SELECT o.id, line_no, v.id, (o.id + line_no) % 5 + 1, v.price, CASE WHEN o.id % 9 = 0 THEN 0.125 ELSE 0 END
FROM "Order" AS o, generate_series(1, o.id % 4 + 1) AS line_no, variant AS v WHERE v.id = (o.id * 7 + line_no * 13) % 6000 + 1;
INSERT INTO payment (id, order_id, method, amount, answer, captured_at, refunded_at)
SELECT md5('payment ' || id)::uuid, id, pg_temp.pick(id, 'card', 'bank transfer', 'gift card')::payment_method, t.total,
    format('{"id":%s,  "ok" : true, "ok":"yes"}', id)::json, placed_at, CASE WHEN o.status = 'returned' THEN updated_at END
FROM "Order" AS o JOIN order_total AS t USING (id) WHERE o.status BETWEEN 'paid' AND 'returned' ORDER BY id;
INSERT INTO shipment (order_id, warehouse_id, tracking, promised, shipped_at, delivered_at)
SELECT id, id % 5 * 10 + 10, 'TR' || id, pg_temp.pick(id, '3 days', '1 mon -2 days 03:04:05.678', 'PT0S')::interval,
    placed_at + interval '1 day', CASE WHEN status <> 'shipped' THEN placed_at + interval '2 days' END
FROM "Order" WHERE status BETWEEN 'shipped' AND 'returned' ORDER BY id;
INSERT INTO ledger_account VALUES ('bank', 'Bank'), ('fees', 'Gebühren'), ('sellers', 'Owed to sellers'), ('§', 'Unused');
INSERT INTO posting (transfer, account, amount, booked_on)
SELECT receipt_no, account, change, captured_at::date FROM payment, LATERAL (VALUES ('bank', amount),
    ('sellers', -round(amount * 0.92, 2)), ('fees', round(amount * 0.92, 2) - amount)) AS leg (account, change)
ORDER BY receipt_no, account;

-- What customers say and do
INSERT INTO review (product_id, customer_id, order_id, line_no, stars, body)
SELECT v.product_id, o.customer_id, CASE WHEN o.id % 3 > 0 THEN o.id END, CASE WHEN o.id % 3 > 0 THEN 1 END, o.id % 5 + 1,
    pg_temp.pick(o.id, 'Très bien!', E'It''s "fine".\nThat is all.', '★★★☆☆', NULL, '')
FROM "Order" AS o JOIN "Order Line" AS l ON (l.order_id, l.line_no) = (o.id, 1) JOIN variant AS v ON v.id = l.variant_id
WHERE o.id <= 108000 ORDER BY o.id;
INSERT INTO ticket (customer_id, priority, subject, closed_at)
SELECT n * 3, pg_temp.pick(n, 'lowest', 'low', 'normal', 'high')::ticket_priority, pg_temp.pick(n, 'Wo?', 'Why "me"?', '¿Cuándo?'),
    CASE WHEN n % 5 > 0 THEN timestamptz '2024-06-01 00:00:00.000001' + n * interval '1 hour' END FROM generate_series(1, 1500) AS n;
INSERT INTO ticket_message SELECT id, no, nullif(no - 1, 0), 'Message ' || no || E'\r\n> ' || subject,
    CASE WHEN id % 30 = 0 THEN ARRAY['\x00ff5c27'::bytea, '', NULL] ELSE '{}' END FROM ticket, generate_series(1, 3) AS no;
INSERT INTO audit.login (customer_id, at, ip, token)
SELECT n, '2024-01-01'::timestamptz + n * interval '2 hours', pg_temp.pick(n, '10.0.0.0', '2001:db8::', '192.168.0.0/16')::inet + n,
    CASE WHEN n % 10 > 0 THEN sha256(n::text::bytea) END FROM generate_series(1, 3000) AS n;
INSERT INTO page_view (at, customer_id, path, query)
SELECT '2023-12-15'::timestamptz + n * interval '30 minutes', CASE WHEN n % 2 = 0 THEN n % 10000 + 1 END, '/product/' || n % 3000,
    CASE WHEN n % 3 = 0 THEN jsonb_build_object('q', 'größe ' || n % 50, 'page', n % 7) END FROM generate_series(1, 26405) AS n;

-- A day later
SET shop.now = '2025-01-02 12:00+00';
UPDATE customer SET note = 'Called.' WHERE id % 1000 = 0;
UPDATE "Order" SET status = 'shipped' WHERE status = 'paid' AND id % 100 = 3;
UPDATE seller SET closed_on = 'infinity', commission = 0 WHERE id IN (7, 77);
DELETE FROM coupon WHERE code = 'gone';
REFRESH MATERIALIZED VIEW seller_revenue;

DO $$ DECLARE relation regclass; expected bigint; found bigint; total bigint := 0;
BEGIN
    FOR relation, expected IN VALUES ('country'::regclass, 10), ('customer', 10006), ('customer_address', 12000), ('seller', 200),
        ('category', 61), ('product', 3000), ('variant', 6000), ('price_period', 12000), ('coupon', 50), ('warehouse', 5),
        ('stock', 12000), ('stock_movement', 15000), ('"Order"', 12000), ('"Order Line"', 30000), ('payment', 9000),
        ('shipment', 8000), ('ledger_account', 4), ('posting', 27000), ('review', 8000), ('ticket', 1500), ('ticket_message', 4500),
        ('page_view', 26405), ('audit.login', 3000), ('audit.change', 259)
    LOOP
        EXECUTE format('SELECT count(*) FROM %s', relation) INTO found;
        IF found <> expected THEN RAISE EXCEPTION '% has % rows, not %.', relation, found, expected; END IF;
        total := total + found;
    END LOOP;
    IF total <> 200000 THEN RAISE EXCEPTION 'The tables have % rows together, not 200000.', total; END IF;
END $$;
DROP FUNCTION pg_temp.home, pg_temp.pick;
RESET shop.actor; RESET shop.now; RESET timezone; RESET client_encoding;
