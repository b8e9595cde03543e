"""The exposure log: records of rankings, impressions and events, which a thread of each worker writes."""
