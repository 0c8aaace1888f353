SELECT flight_id, event_time, carrier, distance, month, temp,
       CASE WHEN label_time <= $as_of THEN label END AS label,
       CASE WHEN label_time <= $as_of THEN label_time END AS label_time
FROM flights
