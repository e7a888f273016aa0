"""Delivery of alerts to webhooks: where they may go, how they are said, what becomes of an answer, and who waits.

    grid.alerts -> EventSource -> backlog (what waits, by finding) -> sender -> receiver
                                    |
                                    '-> commit: positions + dead letters + how the route is, once a second at most

Each route is a reader with a group of its own, so none waits for another's receiver. See docs/decisions/0059.
"""
