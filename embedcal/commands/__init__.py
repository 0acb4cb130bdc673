"""The commands: each is parse, one call of a public function, print."""
