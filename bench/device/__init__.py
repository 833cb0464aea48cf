"""Tools for who works on kernels: compiled (audit), recorded (dry_run) and measured (gpu) launches."""
