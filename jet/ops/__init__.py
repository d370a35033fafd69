"""Operations: a plain torch reference and its fast twins side by side, with the same arguments."""
