"""Parts of a system that a stage of training leaves as they are."""

from __future__ import annotations

from torch import nn

from smalti.errors import ConfigError


class Frozen:
    """Named parts that keep their weights while the rest is trained.

    ```
    names ─► parameters without a gradient, until `release`; modules that `rest` in evaluation mode
    ```
    A module at rest moves no running mean, draws nothing and drops nothing. The next stage begins with
    everything free again.

    Args:
        module: that holds the parts.
        names: of parameters and modules.

    Raises:
        ConfigError: a name that nothing has.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        self.modules: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []
        for name in names:
            modules = [part for key, part in module.named_modules() if key == name]
            held = [p for key, p in module.named_parameters() if key == name or key.startswith(f"{name}.")]
            if not modules and not held:
                raise ConfigError(f"frozen: {type(module).__name__} has no parameter or module {name!r}")
            self.modules += modules
            self.parameters += [parameter for parameter in held if parameter.requires_grad]
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        self.rest()

    def rest(self) -> None:
        """Put the modules into evaluation mode, after all were put into another."""
        for module in self.modules:
            module.eval()

    def release(self) -> None:
        """Let everything learn again that did before."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
