"""States of requests: pages of keys and values, recurrent states, copies in host memory, prefix cache."""
