"""The HTTP API as machines read it: what each address takes and answers, and the OpenAPI document made of it."""
