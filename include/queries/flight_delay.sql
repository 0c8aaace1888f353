-- Will a flight leaving New York arrive more than 15 minutes late?
--
-- One row per scheduled flight of the window. A feature is what is known one hour before the scheduled departure:
-- the schedule, and the last weather observation at the origin by then. Nothing that happens later may be read here;
-- tests/unit/test_leakage.py changes all of it and compares the features bit by bit.
--
-- Clocks. event_time and label_time are New York local time without a zone, as in the tables. The weather is joined in
-- UTC (time_hour), because the local hour 01:00 comes twice when daylight saving time ends.
--
-- Label. arr_delay > 15. It is NULL for a flight that was cancelled or diverted, and NULL until it is known.
-- label_time is an upper bound of the landing: actual departure + time in the air + 4 hours for both taxi ways. The
-- arrival columns are in the clock of the destination, whose zone the table does not tell. The longest taxi time of
-- 2013 was 3 h 55 min; four hours also cover the hour that the clock loses in March.
WITH planned AS (
    SELECT
        *,
        time_hour + to_minutes(minute) - INTERVAL 1 HOUR AS known_at_utc
    FROM flights
    WHERE sched_dep_at >= $start AND sched_dep_at < $end
),

observed AS (
    SELECT
        planned.*,
        weather.temp,
        weather.dewp,
        weather.humid,
        weather.wind_speed,
        weather.wind_gust,
        weather.precip,
        weather.pressure,
        weather.visib,
        -- An old observation says nothing: after three hours without one, the weather is unknown.
        weather.time_hour >= known_at_utc - INTERVAL 3 HOURS AS is_fresh
    FROM planned
    ASOF LEFT JOIN weather
        ON planned.origin = weather.origin AND planned.known_at_utc >= weather.time_hour
),

labelled AS (
    SELECT
        *,
        CASE WHEN arr_delay IS NOT NULL
            THEN sched_dep_at + to_minutes(CAST(dep_delay + air_time AS BIGINT)) + INTERVAL 4 HOURS
        END AS landed_by
    FROM observed
)

SELECT
    strftime(sched_dep_at, '%Y-%m-%d') || '/' || carrier || '/' || flight || '/' || origin || '/'
        || strftime(sched_dep_at, '%H%M') AS flight_id,
    sched_dep_at AS event_time,

    carrier,
    origin,
    dest,
    CAST(distance AS DOUBLE) AS distance,
    CAST(month(sched_dep_at) AS INTEGER) AS month,
    CAST(isodow(sched_dep_at) AS INTEGER) AS day_of_week,          -- 1 is Monday
    CAST(hour(sched_dep_at) * 60 + minute(sched_dep_at) AS INTEGER) AS dep_minute,
    -- From clock to clock: the difference of the zones is in it, which is a property of the route.
    CAST((((sched_arr_time // 100) * 60 + sched_arr_time % 100
        - hour(sched_dep_at) * 60 - minute(sched_dep_at)) % 1440 + 1440) % 1440 AS INTEGER) AS sched_duration_min,
    CASE WHEN is_fresh THEN CAST(temp AS DOUBLE) END AS temp,       -- °F
    CASE WHEN is_fresh THEN CAST(dewp AS DOUBLE) END AS dewp,       -- °F
    CASE WHEN is_fresh THEN CAST(humid AS DOUBLE) END AS humid,     -- %
    CASE WHEN is_fresh THEN CAST(wind_speed AS DOUBLE) END AS wind_speed,  -- mph
    CASE WHEN is_fresh THEN CAST(wind_gust AS DOUBLE) END AS wind_gust,    -- mph; NULL where there was none
    CASE WHEN is_fresh THEN CAST(precip AS DOUBLE) END AS precip,   -- inches
    CASE WHEN is_fresh THEN CAST(pressure AS DOUBLE) END AS pressure,      -- millibars
    CASE WHEN is_fresh THEN CAST(visib AS DOUBLE) END AS visib,     -- miles

    CASE WHEN landed_by <= $as_of THEN arr_delay > 15 END AS label,
    CASE WHEN landed_by <= $as_of THEN landed_by END AS label_time
FROM labelled
ORDER BY event_time, flight_id
