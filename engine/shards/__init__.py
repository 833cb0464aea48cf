"""One model over several processes, a rank each: what starts them, tells them what to launch, and ends with them."""
