"""MokA as a PEFT tuner: `peft.get_peft_model(model, MokaConfig())`. Importing this package registers it with PEFT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


def _extend_peft_types() -> None:
    """Add MOKA to PEFT's enum of methods, which outside packages have no other way to enter."""
    if "MOKA" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "MOKA")
    member._name_ = member._value_ = "MOKA"
    type.__setattr__(PeftType, "MOKA", member)
    PeftType._member_names_.append("MOKA")
    PeftType._member_map_["MOKA"] = member
    PeftType._value2member_map_["MOKA"] = member


_extend_peft_types()

from moka.adapter.config import MokaConfig  # noqa: E402 - needs PeftType.MOKA
from moka.adapter.functional import moka_delta  # noqa: E402
from moka.adapter.layer import MokaLayer, MokaLinear  # noqa: E402
from moka.adapter.model import MokaModel  # noqa: E402

if PeftType.MOKA not in PEFT_TYPE_TO_CONFIG_MAPPING:  # type: ignore[attr-defined]
    register_peft_method(name="moka", config_cls=MokaConfig, model_cls=MokaModel)

__all__ = ["MokaConfig", "MokaLayer", "MokaLinear", "MokaModel", "moka_delta"]
