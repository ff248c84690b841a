"""Who is who: long-term keys, the certificates made from them, and the pins that hold both together."""
