"""The thread of 2021: a guest whose host sleeps, under every design that was proposed."""
