"""Former name of `pipelines.tracking.mlflow_pyfunc`; MLflow models of the previous release refer to it.

Such a model contains the code of its release, and a fresh process runs that code. A process that has already imported
this package looks here instead. Remove this module after the first release that logs models under the present name.
"""

from pipelines.tracking.mlflow_pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
