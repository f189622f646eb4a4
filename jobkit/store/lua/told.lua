-- Notes that Celery was told of a job's end.
-- KEYS[1] tag
-- ARGV[1] id
-- Returns how many notes that took away, 0 or 1.
return redis.call('ZREM', index('untold'), ARGV[1])
