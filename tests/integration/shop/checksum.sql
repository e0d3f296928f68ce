-- One line per table: its name, its rows, and a checksum of the rows that does not depend on their order. To compare a
-- database before and after:  psql -XqAt -f checksum.sql
-- A partitioned table is one table; views and sequences are left out. The settings are those that change rows as text.
SET client_encoding = 'UTF8'; SET search_path = pg_catalog;
SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres';
SET bytea_output = 'hex'; SET extra_float_digits = 1; SET quote_all_identifiers = off;

-- query_to_xml() runs a query made for each table inside this one; the hashes are added up as numeric: no overflow.
SELECT name, found[1]::bigint AS rows, found[2]::numeric AS checksum
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN format('%I.%I', n.nspname, c.relname) AS name
CROSS JOIN format('SELECT count(*) AS n, coalesce(sum(hashtextextended(a_row::text, 0)), 0) AS h FROM %s AS a_row', name) AS query
CROSS JOIN regexp_match(query_to_xml(query, false, true, '')::text, '<n>(.*)</n>\s*<h>(.*)</h>') AS found
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY name COLLATE "C";
