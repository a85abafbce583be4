"""The one mechanism: rules on a network's attention (and on its features) for as long as a `with` block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from math import nan
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from calotype.attention.captures import Capture
from calotype.attention.qkv import attend, finish, project
from calotype.attention.rules import Blending, Order, Rule
from calotype.attention.sites import Site, attention_modules, attention_sites
from calotype.core.stepping import StepContext, Steps
from calotype.errors import InputError, ShapeError


@runtime_checkable
class ModuleRule(Protocol):
    """Sees, and may replace, the output of one module: `calotype.features.FeatureTap` and `FeatureInject`."""

    @property
    def module(self) -> str:
        """The module's path in the network."""
        ...

    @property
    def steps(self) -> Steps:
        """Which steps."""
        ...

    def act(self, output: Tensor, context: StepContext) -> Tensor:
        """The output [rows, ...], the same or another tensor."""
        ...


Added = TypeVar("Added", bound=Rule | ModuleRule)
_Acting = tuple[Rule, Site, StepContext]


_PATCHING = threading.Lock()
"""Held while a stand-in is put on a module or taken off again, which two threads may do to one network."""


class AttentionControl:
    """Rules on the attention of a network. Outside of the `with` block the network is as it was, also after an error.

    The rules belong to the thread that entered the block. Calls of the network in other threads stay as they are, and each thread may
    have its own controls on one network, at the same time.

    The processors are never replaced: while no rule is active at a site and a step, its own processor runs. Rules act in the order
    captures of q, k, v; Inject; Swap; KeyScale; KeyBias; attention; OutBlend; captures of outputs and probabilities. A rule of a subclass
    acts where its class does, and rules of one place in the order in which they were added. Controls can be nested on one network; the
    outer one's rules then come first within a place. A rule acts in calls whose batch holds all the roles that it names.

    Args:
        model: a diffusers UNet or transformer, or a model of `calotype.load` (its `unet`).
        roles: what the batch holds, in order. Dimension 0 must be role-major, as many rows for each role. Default: the branches of the
            denoiser that is given the control (`model.denoiser(..., control=control)`), or the one role `cond`.
        latent_size: height and width of the latents. Default: read from each call of the network.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> from calotype.attention import AttentionControl, Capture, sites
        >>> unet = UNet2DConditionModel(block_out_channels=(8, 8), attention_head_dim=2, cross_attention_dim=8, norm_num_groups=4,
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
        >>> import torch
        >>> with torch.no_grad(), AttentionControl(unet, roles=("uncond", "cond")) as control:
        ...     queries = control.add(Capture(what="q", select=sites(kind="cross", place="up"), rows="cond"))
        ...     for index, sigma in enumerate((2.0, 1.0)):
        ...         control.begin_step(index, 2, sigma)
        ...         _ = unet(torch.zeros(2, 4, 16, 16), 1, torch.zeros(2, 3, 8))
        >>> sorted({step for _, step in queries.tensors})
        [0, 1]
    """

    def __init__(self, model: Any, *, roles: Sequence[str] | None = None, latent_size: tuple[int, int] | None = None) -> None:
        network = model if isinstance(model, nn.Module) else getattr(model, "unet", None)
        if not isinstance(network, nn.Module):
            raise InputError(f"a {type(model).__name__} was given; give a diffusers network or a model from calotype.load")
        if roles is not None and (not roles or len(set(roles)) != len(roles) or isinstance(roles, str)):
            raise InputError(f"the roles are {roles!r}; give a tuple of different names, such as ('uncond', 'cond')")
        self.model = network
        self.roles = ("cond",) if roles is None else tuple(roles)
        self._roles_given = roles is not None
        self._context = StepContext(roles=self.roles)
        self._asked_size = latent_size
        self._size: tuple[int, int] | None = None
        self._rows: int | None = None
        self._rules: list[Rule] = []
        self._feature_rules: list[ModuleRule] = []
        self._sites: dict[str, Site] = {}
        self._chosen: dict[int, frozenset[str]] = {}
        self._hooks: list[Any] = []
        self._hooked: list[_Forward] = []
        self._thread: int | None = None
        self._resize(latent_size)

    @property
    def context(self) -> StepContext:
        """The current step."""
        return self._context

    @property
    def sites(self) -> tuple[Site, ...]:
        """The network's attention sites, with the grids of the last call."""
        return tuple(self._sites.values())

    def module(self, site: Site | str) -> nn.Module:
        """The attention module of a site."""
        return self.model.get_submodule(site if isinstance(site, str) else site.name)

    def expect(self, roles: Sequence[str]) -> None:
        """Hear from a denoiser which roles its batches will hold; roles that were given to the control itself stay.

        Raises:
            InputError: a rule names another role.
        """
        if self._roles_given:
            return
        self.roles = tuple(roles)
        self._context = StepContext(roles=self.roles)
        for rule in (*self._rules, *self._feature_rules):
            self._check_roles(rule)

    def begin_step(self, index: int, count: int, sigma: float = nan, *, roles: Sequence[str] | None = None) -> None:
        """`begin`, for a network that is called by hand.

        Args:
            index: number of the step, from 0.
            count: steps of the run.
            sigma: noise level.
            roles: what the batch holds in this step, if not what was said first.
        """
        self.begin(StepContext(index, count, sigma, self.roles if roles is None else tuple(roles)))

    def begin(self, step: StepContext) -> None:
        """Hear which step the calls to come belong to; the only clock. A denoiser that was given the control tells it.

        Raises:
            InputError: another thread than the one that entered the `with` block asks, whose calls the rules don't see.
        """
        if self._thread is not None and not self.acts_here():
            raise InputError(
                "this AttentionControl was entered in another thread, and its rules act on that thread's calls only; "
                "enter it in the thread that calls the network"
            )
        self._context = step

    def tied(self, step: StepContext) -> list[tuple[str, ...]]:
        """The step's roles in groups, each of which must be in one call of the network; empty where no rule acts in the step."""
        rules: list[Rule | ModuleRule] = [*self._rules, *self._feature_rules]
        acting = [rule for rule in rules if _acts(rule, step)]
        groups = [{role} for role in step.roles] if acting else []
        for named in (_named(rule) or set(step.roles) for rule in acting):
            apart = [group for group in groups if not group & named]
            groups = [*apart, set().union(*(group for group in groups if group & named))]
        ordered = [tuple(role for role in step.roles if role in group) for group in groups]
        return sorted(ordered, key=lambda group: step.roles.index(group[0]))

    def add(self, rule: Added) -> Added:
        """Add a rule, before or inside of the `with` block, and return it.

        Raises:
            InputError: it selects no site, a site where it can't act, a module that isn't there, or a role that isn't in the batch.
        """
        self._check_roles(rule)
        if isinstance(rule, ModuleRule):
            self._check_module(rule)
            self._feature_rules.append(rule)
            if self._hooked_up:
                self._hook_feature(rule)
            return rule
        # Without a given size the grids are only the config's, so a selection by size may still come true.
        self._check_selection(rule, certain=self._asked_size is not None)
        self._rules.append(cast(Rule, rule))
        self._chosen.clear()
        return rule

    def remove(self, rule: Rule | ModuleRule) -> None:
        """Take a rule away again; what it captured stays."""
        if rule in self._feature_rules:
            with _PATCHING:
                active = self._hooked_up
                self._unhook()
                self._feature_rules.remove(rule)
                if active:
                    self._hook()
        else:
            self._rules.remove(cast(Rule, rule))
            self._chosen.clear()

    def __enter__(self) -> AttentionControl:
        with _PATCHING:
            if self._hooked_up:
                where = "" if self.acts_here() else " in another thread"
                raise InputError(f"this AttentionControl is already in use{where}; make another one, controls can be nested")
            self._thread = threading.get_ident()
            self._hook()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _PATCHING:
            self._unhook()
            self._thread = None

    def acts_here(self) -> bool:
        """Whether calls of the network in this thread are the control's.

        A backward pass may run a checkpointed part of the network again in a thread of torch's own, which has no owner.
        """
        here = threading.get_ident()
        return self._thread == here or (
            torch._C._current_graph_task_id() != -1 and isinstance(threading.current_thread(), threading._DummyThread)
        )

    def active(self, site: str) -> list[Rule]:
        """The rules that act at a site in the current step, in their order."""
        context = self._context
        return [rule for rule in self._rules if site in self._selected(rule) and _acts(rule, context)]

    def at(self, site: str, rows: int) -> tuple[Site, StepContext]:
        """The site as it is in this call, and the step; raises `ShapeError` if the batch doesn't hold the roles."""
        context = self._context
        if rows % len(context.roles) or (self._rows is not None and self._rows % len(context.roles)):
            raise ShapeError(
                f"the network was called with a batch of {self._rows or rows} for the {len(context.roles)} roles "
                f"{', '.join(context.roles)}; each needs as many rows, all in one call (max_rows=None)"
            )
        return self._sites[site], context

    @property
    def _hooked_up(self) -> bool:
        return bool(self._hooks)

    def _hook(self) -> None:
        try:
            self._hooks.append(self.model.register_forward_pre_hook(self._before_call, with_kwargs=True))
            for name, module in attention_modules(self.model):
                self._hooked.append(_Forward.of(module, name, self))
            for rule in self._feature_rules:
                self._hook_feature(rule)
        except BaseException:
            self._unhook()
            raise

    def _unhook(self) -> None:
        for forward in self._hooked:
            forward.release(self)
        for hook in self._hooks:
            hook.remove()
        self._hooked, self._hooks = [], []
        self._rows = None

    def _hook_feature(self, rule: ModuleRule) -> None:
        def act(module: nn.Module, arguments: Any, output: Any) -> Any:
            if not self.acts_here() or not _acts(rule, self._context):
                return None
            if not isinstance(output, Tensor):
                raise InputError(
                    f"{rule.module} returns a {type(output).__name__}, not a tensor; choose a module inside of it (calotype models --taps)"
                )
            return rule.act(output, self._context)

        self._hooks.append(self.model.get_submodule(rule.module).register_forward_hook(act))

    def _before_call(self, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any] = MappingProxyType({})) -> None:
        # Another thread's call, beside which this hook is put on or taken off, may come without its keywords.
        if not self.acts_here():
            return
        sample = next((value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)), None)
        if sample is None or sample.ndim < 4:
            return
        self._rows = int(sample.shape[0])
        if self._asked_size is None:
            self._resize((int(sample.shape[-2]), int(sample.shape[-1])))

    def _resize(self, size: tuple[int, int] | None) -> None:
        if self._sites and size == self._size:
            return
        self._size = size
        self._sites = {site.name: site for site in attention_sites(self.model, size)}
        self._chosen.clear()

    def _selected(self, rule: Rule) -> frozenset[str]:
        if id(rule) not in self._chosen:
            self._check_selection(rule, certain=True)
            self._chosen[id(rule)] = frozenset(site.name for site in self._match(rule))
        return self._chosen[id(rule)]

    def _match(self, rule: Any) -> list[Site]:
        return [site for site in self._sites.values() if rule.select(site)]

    def _check_selection(self, rule: Any, *, certain: bool) -> None:
        found = self._match(rule)
        if not found and certain:
            kinds = ", ".join(sorted({f"{site.kind} {site.grid[0]}x{site.grid[1]}" if site.grid else site.kind for site in self.sites}))
            raise InputError(f"{type(rule).__name__} selects no attention of this network, which has: {kinds or 'none'}")
        hidden = isinstance(rule, Capture) and rule.what == "attn_output"
        blocked = next((site for site in found if site.obstacle), None)
        if blocked is not None and not hidden:
            raise InputError(f"{type(rule).__name__} can't act on {blocked.name}: {blocked.obstacle}")

    def _check_roles(self, rule: Any) -> None:
        self._context.slices(sorted(_named(rule)), len(self._context.roles))

    def _check_module(self, rule: ModuleRule) -> None:
        try:
            self.model.get_submodule(rule.module)
        except AttributeError:
            raise InputError(
                f"the network has no module {rule.module!r}; `calotype models --taps NAME` lists those of a checkpoint"
            ) from None


def _named(rule: Any) -> set[str]:
    """The roles that a rule names; none where it acts on all."""
    found: set[str] = set()
    for value in (getattr(rule, name, None) for name in ("rows", "dst", "src")):
        found |= {value} if isinstance(value, str) else set(value or ())
    return found


def _acts(rule: Rule | ModuleRule, context: StepContext) -> bool:
    """Whether a rule acts in a call: its roles are all in the batch, and it is due."""
    return _named(rule) <= set(context.roles) and rule.steps(context)


class _Forward:
    """Stands in for the `forward` of one attention module, for all controls that hold it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.controls: tuple[tuple[AttentionControl, str], ...] = ()
        """The controls, outer ones first, and the module's name in the network of each."""
        self.had_own = "forward" in module.__dict__
        self.original: Callable[..., Tensor] = module.forward

    @staticmethod
    def of(module: nn.Module, name: str, control: AttentionControl) -> _Forward:
        """The stand-in of a module, made if it has none; holds it for the control."""
        current = module.__dict__.get("forward")
        forward = current if isinstance(current, _Forward) else _Forward(module)
        forward.controls = (*forward.controls, (control, name))
        module.__dict__["forward"] = forward
        return forward

    def release(self, control: AttentionControl) -> None:
        """Let go; with the last control the module gets its own `forward` back."""
        self.controls = tuple(entry for entry in self.controls if entry[0] is not control)
        if not self.controls and self.module.__dict__.get("forward") is self:
            if self.had_own:
                self.module.__dict__["forward"] = self.original
            else:
                del self.module.__dict__["forward"]

    def __call__(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, **keywords: Any
    ) -> Tensor:
        """The module's output under the active rules."""
        acting: list[_Acting] = []
        for control, name in self.controls:
            rules = control.active(name) if control.acts_here() else []
            if rules:
                site, context = control.at(name, hidden_states.shape[0])
                acting += [(rule, site, context) for rule in rules]
        outputs = [entry for entry in acting if isinstance(entry[0], Capture) and entry[0].what == "attn_output"]
        if len(outputs) == len(acting):
            output = self.original(hidden_states, encoder_hidden_states, attention_mask, **keywords)
        else:
            acting.sort(key=lambda entry: getattr(entry[0], "order", Order.OTHER))
            output = self._ruled(acting, hidden_states, encoder_hidden_states, attention_mask, keywords.get("temb"))
        for capture, site, context in outputs:
            cast(Capture, capture).take(site, output, context)
        return output

    def _ruled(
        self,
        acting: list[_Acting],
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        attention_mask: Tensor | None,
        temb: Tensor | None,
    ) -> Tensor:
        attn: Any = self.module
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        native = states = project(attn, hidden_states, encoder_hidden_states, attention_mask)
        for rule, site, context in acting:
            try:
                states = rule(site, states, context)
            except RuntimeError as error:
                raise ShapeError(f"{type(rule).__name__} failed at {site.name} with queries {list(states.q.shape)}: {error}") from error
        attended = attend(states)
        for rule, site, context in acting:
            if isinstance(rule, Blending):
                attended = rule.blend(site, attended, attend(native), context)
            elif isinstance(rule, Capture) and rule.what == "probs":
                rule.take_probabilities(site, states, context)
        output = finish(attn, attended, states.q.dtype)
        if len(shape) == 4:
            output = output.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            output = output + residual
        return cast(Tensor, output / attn.rescale_output_factor)
