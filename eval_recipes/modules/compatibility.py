"""Old names and signatures of NumPy, SciPy and librosa, for HEAR modules written in 2021.

Most published HEAR modules were written for numpy 1.19, scipy 1.5 and librosa 0.8, and stop on
today's versions at calls such as `np.float(x)` or `librosa.filters.mel(16000, 512)`. `old_libraries`
restores these while such a module runs and removes them afterwards. Only calls that would raise are
mended: valid calls do what they do without it, and changed defaults stay changed (librosa 0.10 pads
`stft` with zeros and resamples with soxr).

Not mended: `np.array(x, copy=False)` of numpy 2, methods removed from arrays (`ptp`, `itemset`), and
`torch.load` of pickled objects (torch 2.6), which executes code in a checkpoint.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

NUMPY_SINCE_1_24 = {
    "float": float,
    "int": int,
    "bool": bool,
    "object": object,
    "complex": complex,
    "str": str,
}
"""Removed in numpy 1.24, aliases of Python's types. numpy 2 has a `bool` of its own, which stays."""

NUMPY_SINCE_2 = {
    "float_": np.float64,
    "complex_": np.complex128,
    "cfloat": np.complex128,
    "singlecomplex": np.complex64,
    "longfloat": np.longdouble,
    "longcomplex": np.clongdouble,
    "clongfloat": np.clongdouble,
    "string_": np.bytes_,
    "unicode_": np.str_,
    "Inf": np.inf,
    "Infinity": np.inf,
    "PINF": np.inf,
    "infty": np.inf,
    "NINF": -np.inf,
    "NaN": np.nan,
    "PZERO": 0.0,
    "NZERO": -0.0,
    "product": np.prod,
    "cumproduct": np.cumprod,
    "sometrue": np.any,
    "alltrue": np.all,
    "round_": np.round,
    "row_stack": np.vstack,
    "mat": np.asmatrix,
    "asfarray": lambda a, dtype=np.float64: np.asarray(a, dtype),
    "asscalar": lambda a: a.item(),
    "msort": lambda a: np.sort(a, axis=0),
    "trapz": lambda y, x=None, dx=1.0, axis=-1: np.trapezoid(y, x, dx, axis),
    "in1d": lambda a, b, **options: np.isin(np.ravel(a), b, **options),
}
"""Removed in numpy 2.0, but `asscalar` in 1.23, `trapz` and `in1d` in 2.4."""

SCIPY_WINDOWS = [
    "barthann",
    "bartlett",
    "blackman",
    "blackmanharris",
    "bohman",
    "boxcar",
    "chebwin",
    "cosine",
    "exponential",
    "flattop",
    "gaussian",
    "general_gaussian",
    "hamming",
    "hann",
    "kaiser",
    "nuttall",
    "parzen",
    "triang",
    "tukey",
]
"""Moved from scipy.signal to scipy.signal.windows; the old names were removed in scipy 1.13."""

SCIPY_INTEGRALS = {"trapz": "trapezoid", "cumtrapz": "cumulative_trapezoid"}
"""Renamed in scipy.integrate, as `simps` to `simpson`; the old names were removed in scipy 1.14."""

LIBROSA_0_8_ORDER = {
    "librosa.feature.rhythm.tempo": "y sr onset_envelope hop_length start_bpm std_bpm ac_size max_tempo "
    "aggregate prior",
    "librosa.core.audio.get_duration": "y sr S n_fft hop_length center filename",
    "librosa.core.constantq.vqt": "y sr hop_length fmin n_bins gamma bins_per_octave tuning filter_scale "
    "norm sparsity window scale pad_mode res_type dtype",
    "librosa.core.spectrum.istft": "stft_matrix hop_length win_length window center dtype length",
    "librosa.core.spectrum.griffinlim": "S n_iter hop_length win_length window center dtype length pad_mode "
    "momentum init random_state",
    "librosa.display.specshow": "data x_coords y_coords x_axis y_axis sr hop_length fmin fmax tuning "
    "bins_per_octave key Sa mela thaat auto_aspect htk ax",
    "librosa.display.waveshow": "y sr max_points axis offset marker where label ax",
}
"""Parameters in librosa 0.8.1's order, of functions that have gained one in between since.

Found by comparing all 200 public functions of the sources of 0.8.1 with librosa 0.11.0; the other
functions kept their order, and 0.10 made most parameters keyword-only.
"""

LIBROSA_RENAMED = {
    "librosa.core.harmonic.salience": {"h_range": "harmonics"},
    "librosa.core.harmonic.interp_harmonics": {"h_range": "harmonics"},
}
"""Keywords renamed in librosa 0.10."""

ABSENT = object()


def _numpy(module: ModuleType) -> dict[str, Any]:
    return {
        name: value for name, value in (NUMPY_SINCE_1_24 | NUMPY_SINCE_2).items() if not _has(module, name)
    }


def _scipy_signal(module: ModuleType) -> dict[str, Any]:
    windows = {name: getattr(module.windows, name) for name in SCIPY_WINDOWS if not _has(module, name)}
    return windows if _has(module, "hanning") else windows | {"hanning": module.windows.hann}


def _scipy_integrate(module: ModuleType) -> dict[str, Any]:
    found = {old: getattr(module, new) for old, new in SCIPY_INTEGRALS.items() if not _has(module, old)}

    def simps(y: Any, x: Any = None, dx: float = 1.0, axis: int = -1) -> Any:
        return module.simpson(y, x=x, dx=dx, axis=axis)

    return found if _has(module, "simps") else found | {"simps": simps}


def _has(module: ModuleType, name: str) -> bool:
    """Whether a module has an attribute, without `__getattr__`, which may warn of old names."""
    return name in vars(module)


def _librosa(module: ModuleType) -> dict[str, Any]:
    functions = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and (value.__module__ or "").startswith("librosa.")
    }
    mended = {name: takes_old_arguments(function) for name, function in functions.items()}
    return {name: function for name, function in mended.items() if function is not functions[name]}


@functools.cache
def takes_old_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that also takes librosa 0.8's positional arguments, or itself if it does already.

    Keyword-only parameters take positions in the order of librosa 0.8; arguments given in another way are
    handed on as they are.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    parameters = inspect.signature(function).parameters.values()
    n_positional = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    keyword_only = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    has_star = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    if not keyword_only or has_star:
        return function
    positional = [parameter.name for parameter in parameters][:n_positional]
    order = LIBROSA_0_8_ORDER.get(name, " ".join([*positional, *keyword_only])).split()
    renamed = LIBROSA_RENAMED.get(name, {})

    @functools.wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        beyond = dict(zip(order[n_positional:], given[n_positional:]))  # noqa: B905 (a surplus is an error below)
        if len(given) > len(order) or beyond.keys() & named.keys():
            return function(*given, **named)  # its own TypeError
        return function(
            *given[:n_positional], **beyond, **{renamed.get(key, key): value for key, value in named.items()}
        )

    called.mended_from = function
    return called


MENDS: dict[str, Callable[[ModuleType], dict[str, Any]]] = {
    "numpy": _numpy,
    "scipy.signal": _scipy_signal,
    "scipy.integrate": _scipy_integrate,
    "librosa": _librosa,
}
"""Module (of librosa also all submodules) -> the attributes that it lacks or that replace its own."""


def _mend_for(name: str) -> Callable[[ModuleType], dict[str, Any]] | None:
    return MENDS.get(name) or (_librosa if name.startswith("librosa.") else None)


class _Mended(MetaPathFinder):
    """What is changed at present; mends libraries as they are imported."""

    def __init__(self) -> None:
        self.depth = 0
        self.originals: list[tuple[ModuleType, str, Any, Any]] = []

    def begin(self) -> None:
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType):
                self.mend(name, module)
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        sys.meta_path.remove(self)
        while self.originals:
            module, name, original, ours = self.originals.pop()
            if vars(module).get(name) is not ours:  # the module has since set its own
                continue
            if original is ABSENT:
                delattr(module, name)
            else:
                setattr(module, name, original)
        for name, module in list(sys.modules.items()):  # librosa's packages keep what they hand out
            if name.partition(".")[0] == "librosa" and isinstance(module, ModuleType):
                for attribute, value in list(vars(module).items()):
                    if isinstance(value, FunctionType) and "mended_from" in vars(value):
                        setattr(module, attribute, value.mended_from)

    def mend(self, name: str, module: ModuleType) -> None:
        changes_of = _mend_for(name)
        if changes_of is None:
            return
        for attribute, value in changes_of(module).items():
            self.originals.append((module, attribute, vars(module).get(attribute, ABSENT), value))
            setattr(module, attribute, value)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a library that needs mending with the other finders, and mend it once it is executed."""
        if _mend_for(fullname) is None:
            return None
        for finder in sys.meta_path:
            if finder is self or (spec := finder.find_spec(fullname, path, target)) is None:
                continue
            if spec.loader is not None:
                spec.loader.exec_module = functools.partial(self._execute, spec.loader.exec_module)
            return spec
        return None

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        if self.depth:
            self.mend(module.__name__, module)


_mended = _Mended()


@contextmanager
def old_libraries() -> Iterator[None]:
    """Offer old names and signatures of libraries that are imported, or will be inside; undo it at the end.

    Nested uses count as one. Names that a module has bound by then (`from librosa.filters import mel`) stay.
    """
    if not _mended.depth:
        _mended.begin()
    _mended.depth += 1
    try:
        yield
    finally:
        _mended.depth -= 1
        if not _mended.depth:
            _mended.end()
