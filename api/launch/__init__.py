"""`headwater serve` as a program: flags, the processes, watching over them."""
