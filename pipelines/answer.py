"""Former name of `pipelines.tracking.mlflow_pyfunc`, which MLflow models of the release before this one name.

Such a model brings the code of its release along, and a fresh process runs that code. A process that has imported this
package already looks here instead. This module goes once a release has been published that logs models under the name
of today.
"""

from pipelines.tracking.mlflow_pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
