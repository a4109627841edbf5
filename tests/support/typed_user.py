"""What a type checker of a user of the package sees; `.ci/run` checks it, not pytest.

An ignored error that is none is an error itself, so that this fails as well where the
package has no types.
"""

import keras_fanwise

gain: float = keras_fanwise.gain("relu")
fans: tuple[float, float] = keras_fanwise.Fans(9, 9)
wrong: str = keras_fanwise.gain("relu")  # type: ignore[assignment]
keras_fanwise.gain()  # type: ignore[call-arg]
keras_fanwise.gains("relu")  # type: ignore[attr-defined]
