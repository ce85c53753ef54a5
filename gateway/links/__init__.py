"""Where frames come from and downlinks leave. A link turns bytes into Reception and back; it decides nothing."""
