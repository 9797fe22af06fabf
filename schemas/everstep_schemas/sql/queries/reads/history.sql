-- Rows of a history from the one that holds event $2 on, at most $3 of them and not many more than $4 bytes, but always
-- one. `last` is the number of the history's last row and tells whether there is more.
SELECT seq, at, data, last
FROM (
    SELECT seq, at, data,
           sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS bytes_before,
           (SELECT max(seq) FROM {schema}.history WHERE run_key = $1) AS last
    FROM {schema}.history
    WHERE run_key = $1
      AND seq >= (SELECT coalesce(max(seq), 0) FROM {schema}.history WHERE run_key = $1 AND seq <= $2)
    ORDER BY seq
    LIMIT $3
) AS page
WHERE bytes_before < $4
ORDER BY seq;
