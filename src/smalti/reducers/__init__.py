"""Many tokens → few, with the way back. `base.py` holds the contract; every method is one file."""

from smalti.reducers.base import Context as Context
from smalti.reducers.base import Reducer as Reducer
from smalti.reducers.reduction import Assign as Assign
from smalti.reducers.reduction import Dense as Dense
from smalti.reducers.reduction import Gather as Gather
from smalti.reducers.reduction import Reduction as Reduction
from smalti.reducers.reduction import identity as identity
from smalti.reducers.reduction import protect as protect
