"""Network models from what utilities have: CIM XML, pandapower, tables."""
