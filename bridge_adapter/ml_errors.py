"""What libraries for arrays and tensors mean by their errors: shapes or dtypes that do not fit, memory that is not there.

Only whole messages of NumPy, JAX, PyTorch, TensorFlow, CuPy and Arrow are recognised, from their first word on and on exceptions of the
classes that these libraries raise; a user's message that happens to say "OOM" or "type mismatch" is left alone. No library is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bridge_adapter import ml_memory

Facts = dict[str, Any]
_Match = re.Match[str]

_PLAIN = (ValueError, TypeError, RuntimeError, IndexError)
_LIBRARIES = frozenset(("numpy", "jax", "jaxlib", "torch", "tensorflow", "pyarrow", "cupy", "cupy_backends"))
_NUMBER = r"(\d{1,18})"
_SHAPE = r"[(\[]((?:\d{1,18}(?:, ?|(?=[)\]]))){0,64})[)\]]"
_DTYPE = r"(?:torch\.|dtype\(')?([A-Za-z]\w{0,63}(?:\.\w{1,63}){0,3})(?:'\))?"
_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
_AMOUNT = r"([\d.,]{1,24}) ?(bytes|B|[KMGTPE]iB)"
# TensorFlow says first where in the graph it was.
_NODE = r"(?:\{\{[^}]{0,200}\}\} ?)*"


def facts(error: BaseException, message: str) -> Facts | None:
    """What an error says of shapes, dtypes or memory; None when it is no such error. `message` is its text. Never raises."""
    library = str(type(error).__module__).partition(".")[0]
    if isinstance(error, MemoryError) or (library in _LIBRARIES and _out_of_memory_class(error, message)):
        return _out_of_memory(message, library)
    if type(error) not in _PLAIN and library not in _LIBRARIES:
        return None
    if type(error) is RuntimeError and _OUT_OF_MEMORY_TEXT.match(message):
        return _out_of_memory(message, "torch")
    for pattern, make in _RULES:
        found = pattern.match(message)
        if found is not None:
            return make(found)
    return None


def explained(message: str, found: Facts) -> str:
    """The message, followed by the same facts in the words from which SnakeBridge makes its typed errors, unless it has them already."""
    if _WORDED[found["kind"]].search(message):
        return message
    words = f"[{_in_words(found)}]"
    return f"{message} {words}" if message else words


# --- shapes ---


def _shapes(operation: str) -> Callable[[_Match], Facts]:
    """Two groups: the shapes."""
    return lambda match: _shape_facts(operation, _dims(match[1]), _dims(match[2]))


def _sizes(operation: str, a: int = 1, b: int = 2) -> Callable[[_Match], Facts]:
    """Two groups: one size of each shape, all that the message tells."""
    return lambda match: {**_shape_facts(operation, None, None), "size_a": int(match[a]), "size_b": int(match[b])}


def _shape_facts(operation: str, a: list[int] | None, b: list[int] | None) -> Facts:
    return {"kind": "shape_mismatch", "operation": operation, "shape_a": a, "shape_b": b, "suggestion": _SUGGESTIONS[operation]}


def _dims(text: str) -> list[int]:
    return [int(size) for size in re.findall(r"\d+", text)]


def _torch_matmul(match: _Match) -> Facts:
    rows, inner, other, columns = map(int, match.groups())
    return _shape_facts("matmul", [rows, inner], [other, columns])


def _reshape_size(match: _Match) -> Facts:
    return {**_shape_facts("reshape", None, _dims(match[2])), "size_a": int(match[1])}


def _torch_view(match: _Match) -> Facts:
    return {**_shape_facts("reshape", None, _dims(match[1])), "size_a": int(match[2])}


def _axis(match: _Match) -> Facts:
    return {**_shape_facts("index", None, None), "axis": int(match[1]), "dimensions": int(match[2])}


def _torch_axis(match: _Match) -> Facts:
    return {**_shape_facts("index", None, None), "axis": int(match[2]), "dimensions": int(match[1]) + 1}


def _carry(match: _Match) -> Facts:
    """What a loop of JAX carries: `float32[3]` went in, another type came out."""
    (dtype, shape), (other_dtype, other_shape) = match.group(1, 2), match.group(3, 4)
    if shape != other_shape:
        return _shape_facts("unknown", _dims(shape), _dims(other_shape))
    return _dtype_facts(dtype, other_dtype)


_SUGGESTIONS = {
    "matmul": "the last dimension of the first and the one before the last of the second must be equal; transpose or reshape one of them",
    "broadcast": "compared from the last dimension on, sizes must be equal or 1; reshape one of them or add dimensions of size 1",
    "concatenate": "all dimensions but the one joined along must be equal",
    "reshape": "the sizes of the new shape must multiply to the number of elements; one of them may be -1",
    "index": "use an index that fits the dimensions of the array",
    "unknown": "give both the same shape",
}

# --- dtypes ---


def _dtypes(expected: int = 1, got: int = 2) -> Callable[[_Match], Facts]:
    return lambda match: _dtype_facts(match[expected], match[got])


def _dtype_facts(expected: str, got: str) -> Facts:
    suggestion = f"convert to {expected} first, for example with .astype or .to"
    return {"kind": "dtype_mismatch", "expected": expected, "got": got, "suggestion": suggestion}


# --- memory ---

_OUT_OF_MEMORY_TEXT = re.compile(
    r"(?:CUDA|HIP|MPS backend|XPU) out of memory\b"
    r"|CUDA error: out of memory\b"
    r"|\[enforce fail at [\w./]*alloc_cpu\.cpp:\d+\][^\n]{0,200}you tried to allocate"
)
_ASKED = (
    re.compile(r"[Uu]nable to allocate " + _AMOUNT),
    re.compile(r"(?:[Tt]ried|trying) to allocate " + _AMOUNT),
    re.compile(r"[Oo]ut of memory allocating " + _AMOUNT),
    re.compile(r"Failed to allocate request for [\d.]+\w+ \(([\d]{1,18})(B)\)"),
    re.compile(r"(?:malloc|realloc) of size ([\d]{1,18})( )failed"),
)
_TOTAL = re.compile(_AMOUNT + r" total|total capacity of " + _AMOUNT)
_FREE = re.compile(_AMOUNT + r" free|of which " + _AMOUNT + r" is free")
_ORDINAL = re.compile(r"(?:GPU |device ordinal |device:GPU:)(\d{1,4})")


def _out_of_memory_class(error: BaseException, message: str) -> bool:
    if type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError"):
        return True
    return message.startswith("RESOURCE_EXHAUSTED") and re.search(r"(?i)memory|allocat", message[:2000]) is not None


def _out_of_memory(message: str, library: str) -> Facts:
    ordinal = _ORDINAL.search(message)
    on_host = "alloc_cpu" in message or library in ("builtins", "numpy", "pyarrow")
    device = ml_memory.device(library, int(ordinal[1]) if ordinal else None, on_host)
    asked = next((found for pattern in _ASKED if (found := pattern.search(message))), None)
    total, free = _TOTAL.search(message), _FREE.search(message)
    known_free, known_total = (None, None) if total and free else ml_memory.room(library, device)
    return {
        "kind": "out_of_memory",
        "device": device,
        "requested_mb": _mib(asked),
        "available_mb": _mib(free) if free else known_free,
        "total_mb": _mib(total) if total else known_total,
        "suggestion": "use smaller batches or arrays, or release what is not needed any more",
    }


def _mib(match: _Match | None) -> int | None:
    """An amount in MiB, rounded up: what does not fit is never said to be nothing."""
    if match is None:
        return None
    number, unit = (group for group in match.groups() if group is not None)
    try:
        return -int(-float(number.replace(",", "").rstrip(".")) * _UNITS.get(unit, 1) // 2**20)
    except (ValueError, OverflowError):
        return None


# --- in SnakeBridge's words ---

_WORDED = {
    "shape_mismatch": re.compile(r"shapes cannot be multiplied \(\d+x\d+ and \d+x\d+\)|size of tensor a \(\d+\)|Dimension out of range \("),
    "dtype_mismatch": re.compile(r"expected scalar type \w+ but found \w+|expected dtype \w+ but got \w+"),
    "out_of_memory": re.compile(r"out of memory.* allocate [\d.]+ MiB.*[\d.]+ MiB total.*[\d.]+ MiB free", re.DOTALL),
}


def _in_words(found: Facts) -> str:
    if found["kind"] == "dtype_mismatch":
        return f"expected scalar type {found['expected']} but found {found['got']}"
    if found["kind"] == "out_of_memory":
        return _memory_in_words(found)
    return _shape_in_words(found)


def _memory_in_words(found: Facts) -> str:
    device = found["device"]
    parts = [f"{'CUDA' if device.startswith('cuda') else device.upper()} out of memory"]
    if found["requested_mb"] is not None:
        parts.append(f"Tried to allocate {found['requested_mb']} MiB")
    room = [f"{found[key]} MiB {word}" for key, word in (("total_mb", "total"), ("available_mb", "free")) if found[key] is not None]
    where = f"GPU {device.rpartition(':')[2]}" if ":" in device else device.upper()
    return f"{'. '.join(parts)} ({'; '.join([where, *room])})"


def _shape_in_words(found: Facts) -> str:
    operation, a, b = found["operation"], found["shape_a"], found["shape_b"]
    if operation == "matmul" and a and b:
        return f"shapes cannot be multiplied ({_crossed(a)} and {_crossed(b)})"
    if operation == "broadcast" and a and b:
        for place in range(1, min(len(a), len(b)) + 1):
            if a[-place] != b[-place] and 1 not in (a[-place], b[-place]):
                at = max(len(a), len(b)) - place
                return f"The size of tensor a ({a[-place]}) must match the size of tensor b ({b[-place]}) at non-singleton dimension {at}"
    if "axis" in found:
        count = max(found["dimensions"], 1)
        return f"Dimension out of range (expected to be in range of [{-count}, {count - 1}], but got {found['axis']})"
    if a is not None and b is not None:
        return f"shape mismatch: {_crossed(a)} and {_crossed(b)}"
    if "size_b" in found:
        both = f"The size of tensor a ({found['size_a']}) must match the size of tensor b ({found['size_b']})"
        return f"shapes cannot be multiplied: {both}" if operation == "matmul" else both
    return f"shape mismatch: {found['size_a']} elements and {_crossed(b)}" if b is not None else "shape mismatch"


def _crossed(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


_RULES: tuple[tuple[re.Pattern[str], Callable[[_Match], Facts]], ...] = tuple(
    (re.compile(pattern), make)
    for pattern, make in (
        # NumPy
        (rf"operands could not be broadcast together with shapes {_SHAPE} {_SHAPE}", _shapes("broadcast")),
        (
            rf"operands could not be broadcast together with remapped shapes \[original->remapped\]: {_SHAPE}(?:->\S+)? +"
            rf"(?:and requested shape )?{_SHAPE}",
            _shapes("broadcast"),
        ),
        (rf"shapes {_SHAPE} and {_SHAPE} not aligned: ", _shapes("matmul")),
        (
            r"(?:matmul|vecdot|matvec|vecmat): Input operand 1 has a mismatch in its core dimension 0, with gufunc signature \S+ "
            rf"\(size {_NUMBER} is different from {_NUMBER}\)",
            _sizes("matmul", 2, 1),
        ),
        (
            r"\w+: (?:Input|Output) operand \d has a mismatch in its core dimension \d, with gufunc signature \S+ "
            rf"\(size {_NUMBER} is different from {_NUMBER}\)",
            _sizes("unknown", 2, 1),
        ),
        (rf"could not broadcast input array from shape {_SHAPE} into shape {_SHAPE}", _shapes("broadcast")),
        (
            rf"shape mismatch: value array of shape {_SHAPE} +could not be broadcast to indexing result of shape {_SHAPE}",
            _shapes("broadcast"),
        ),
        (rf"shape mismatch: indexing arrays could not be broadcast together with shapes {_SHAPE} {_SHAPE}", _shapes("broadcast")),
        (
            r"shape mismatch: objects cannot be broadcast to a single shape\.  "
            rf"Mismatch is between arg \d+ with shape {_SHAPE} and arg \d+ with shape {_SHAPE}",
            _shapes("broadcast"),
        ),
        (
            r"all the input array dimensions except for the concatenation axis must match exactly, but along dimension \d+, "
            rf"the array at index \d+ has size {_NUMBER} and the array at index \d+ has size {_NUMBER}",
            _sizes("concatenate"),
        ),
        (r"all input arrays must have the same shape$", lambda _: _shape_facts("concatenate", None, None)),
        (rf"cannot reshape array of size {_NUMBER} into shape {_SHAPE}", _reshape_size),
        (
            rf"boolean index did not match indexed array along axis \d+; size of axis is {_NUMBER} "
            rf"but size of corresponding boolean axis is {_NUMBER}",
            _sizes("index"),
        ),
        (rf"axis (-?\d{{1,9}}) is out of bounds for array of dimension {_NUMBER}$", _axis),
        (rf"Cannot cast ufunc '\w+' (?:input(?: \d+)?|output) from {_DTYPE} to {_DTYPE} with casting rule", _dtypes(2, 1)),
        (rf"Cannot cast (?:array data|scalar) from {_DTYPE} to {_DTYPE} according to the rule", _dtypes(2, 1)),
        # JAX
        (rf"\w+ got incompatible shapes for broadcasting: {_SHAPE}, {_SHAPE}", _shapes("broadcast")),
        (rf"Incompatible shapes for broadcasting: (?:shapes=\[)?{_SHAPE}(?:,| and(?: requested shape)?) {_SHAPE}", _shapes("broadcast")),
        (rf"Incompatible types for broadcasting: input type=\w+{_SHAPE} and requested type=\w+{_SHAPE}", _shapes("broadcast")),
        (
            rf"dot_general requires contracting dimensions to have the same shape, got \({_NUMBER},\) and \({_NUMBER},\)",
            _sizes("matmul"),
        ),
        (rf"jax\.lax\.dot: [^\n]{{0,200}}got lhs_shape={_SHAPE} rhs_shape={_SHAPE}", _shapes("matmul")),
        (
            r"Cannot concatenate arrays with shapes that differ in dimensions other than the one being concatenated: "
            rf"concatenating along dimension \d+ for shapes {_SHAPE}, {_SHAPE}",
            _shapes("concatenate"),
        ),
        (rf"cannot reshape array of shape {_SHAPE} \(size \d+\) into shape {_SHAPE}", _shapes("reshape")),
        (rf"Size of label '\w' for operand \d+ \({_NUMBER}\) does not match previous terms \({_NUMBER}\)", _sizes("matmul", 2, 1)),
        (
            rf"dynamic_update_slice update shape must be smaller than operand shape, got update shape {_SHAPE} for operand shape {_SHAPE}",
            _shapes("unknown"),
        ),
        (
            r"\w+ (?:body function carry input and carry output|body_fun output and input) must have (?:equal|identical) types"
            rf"(?s:.{{0,4000}}?)has type (\w+){_SHAPE} but the corresponding output carry component has type (\w+){_SHAPE}",
            _carry,
        ),
        (rf"\S+ requires arguments to have the same dtypes, got {_DTYPE}, {_DTYPE}", _dtypes()),
        # PyTorch
        (rf"mat1 and mat2 shapes cannot be multiplied \({_NUMBER}x{_NUMBER} and {_NUMBER}x{_NUMBER}\)", _torch_matmul),
        (
            rf"The size of tensor a \({_NUMBER}\) must match the size of tensor b \({_NUMBER}\) at non-singleton dimension \d+",
            _sizes("broadcast"),
        ),
        (rf"Sizes of tensors must match except in dimension \d+\. Expected size {_NUMBER} but got size {_NUMBER}", _sizes("concatenate")),
        (rf"shape '{_SHAPE}' is invalid for input of size {_NUMBER}", _torch_view),
        (rf"Dimension out of range \(expected to be in range of \[-\d+, {_NUMBER}\], but got (-?\d{{1,9}})\)", _torch_axis),
        (rf"expected scalar type {_DTYPE} but found {_DTYPE}", _dtypes()),
        (rf"expected m(?:at)?1 and m(?:at)?2 to have the same dtype, but got: {_DTYPE} != {_DTYPE}", _dtypes()),
        (rf"expected dtype {_DTYPE} but got (?:dtype )?{_DTYPE}", _dtypes()),
        (rf"Input type \({_DTYPE}\) and (?:weight|bias) type \({_DTYPE}\) should be the same", _dtypes(2, 1)),
        (
            rf"Index put requires the source and destination dtypes match, got {_DTYPE} for the destination and {_DTYPE} for the source",
            _dtypes(),
        ),
        # TensorFlow
        (rf"{_NODE}(?:required broadcastable shapes|Incompatible shapes): {_SHAPE} vs\. {_SHAPE}", _shapes("broadcast")),
        (rf"{_NODE}Matrix size-incompatible: In\[0\]: {_SHAPE}, In\[1\]: {_SHAPE}", _shapes("matmul")),
        (
            rf"{_NODE}cannot compute \w+ as input #\d+\(zero-based\) was expected to be a {_DTYPE} tensor but is a {_DTYPE} tensor",
            _dtypes(),
        ),
    )
)
