"""Operations: plain torch references, and fast implementations with the same arguments."""
