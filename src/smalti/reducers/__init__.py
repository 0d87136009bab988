"""Many tokens → few, with the way back. `base.py` holds the contract; every method is one file."""

from smalti.reducers.base import Assign as Assign
from smalti.reducers.base import Context as Context
from smalti.reducers.base import Dense as Dense
from smalti.reducers.base import Gather as Gather
from smalti.reducers.base import Reducer as Reducer
from smalti.reducers.base import Reduction as Reduction
