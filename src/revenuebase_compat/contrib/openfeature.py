"""OpenFeature's flags (extra ``openfeature``): ``Settings(v2_flag=OpenFeatureFlag("on-v2"))``.

In a process that nobody edits, ``REVENUEBASE_V2_FLAG=your_module:flag``, and your module makes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from revenuebase_compat.client.extras import missing_extra
from revenuebase_compat.core.events import RouteContext

try:
    from openfeature import api
    from openfeature.client import OpenFeatureClient
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.exception import ErrorCode
    from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
    from openfeature.provider.no_op_provider import PASSED_IN_DEFAULT
except ImportError as error:
    raise missing_extra("OpenFeatureFlag", "openfeature", error) from error

__all__ = ["OpenFeatureFlag"]

_VARIANTS = {"v1": False, "v2": True}

#: What a flag may be, and the default that is passed in.
_TYPES: tuple[tuple[str, object], ...] = (("boolean", False), ("string", ""))


class OpenFeatureFlag:
    """Asks an OpenFeature flag, boolean (true is v2) or of the texts ``"v1"`` and ``"v2"``.

    The process id is the targeting key, where the request names a job; ``phase`` (of v1's life) and
    ``share`` (of the rollout, in percent) are in the context. A provider that fails, is not ready
    or not there, and a flag that is missing, disabled or of another type, has no opinion: never the
    default. ``client`` is that of the default domain where none is given.
    """

    def __init__(self, flag_key: str, client: OpenFeatureClient | None = None) -> None:
        self.flag_key = flag_key
        self._client = client
        #: In the order asked: the one learnt first, as the wrong type is an error to a provider.
        self._types = _TYPES

    def __call__(self, context: RouteContext) -> bool | None:
        """The flag's opinion, for ``Client``."""
        for found in self._ask("get_{}_details", context):
            if found.error_code is not ErrorCode.TYPE_MISMATCH:
                break
        return self._opinion(found)

    async def evaluate_async(self, context: RouteContext) -> bool | None:
        """The flag's opinion, for ``AsyncClient``."""
        for asked in self._ask("get_{}_details_async", context):
            found = await asked
            if found.error_code is not ErrorCode.TYPE_MISMATCH:
                break
        return self._opinion(found)

    def _ask(self, method: str, context: RouteContext) -> Iterator[Any]:
        key = None if context.process_id is None else str(context.process_id)
        about = EvaluationContext(key, {"phase": context.phase.value, "share": context.share})
        client = self._client or api.get_client()
        for kind, unset in self._types:
            yield getattr(client, method.format(kind))(self.flag_key, unset, about)

    def _opinion(self, found: FlagEvaluationDetails[Any]) -> bool | None:
        if found.error_code is not None or found.reason == Reason.ERROR:
            # Raised so that it is logged where every flag's failure is: as no opinion.
            code = found.error_code or found.reason
            raise LookupError(f"{code}: {found.error_message or 'no reason given'}")
        self._types = _TYPES if isinstance(found.value, bool) else _TYPES[::-1]
        # False without a variant of the flag's own is the default that was passed in.
        passed_in = found.reason == Reason.DEFAULT and found.variant in (None, PASSED_IN_DEFAULT)
        if found.reason == Reason.DISABLED or (passed_in and found.value is False):
            return None
        return found.value if isinstance(found.value, bool) else _VARIANTS.get(found.value)
