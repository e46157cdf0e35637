"""The workers' counters as Python has them: the types of their rows."""

from typing import Any

import numpy as np

FLOW_TYPE: np.dtype[Any]
"""A row of `flow_counters`: allocation, session, channel, then packets and bytes each way."""
SESSION_TYPE: np.dtype[Any]
"""A row of `session_counters`: session, active_seconds."""
