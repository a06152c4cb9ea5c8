"""Translates kernels from PTX to C, which kernel.h completes: `ptx.py ENTRY < PTX > C`.

ENTRY is one kernel's name, or `all`. Registers become variables of their bits; an operation reads
them by its own type. The translator knows what the product's programs use; anything else is an
error that names the instruction.
"""

import math
import re
import sys
from collections.abc import Iterator

BITS = {
    "pred": 8, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64,
}  # fmt: skip
FLOATS = {"f16": "float", "bf16": "float", "f32": "float", "f64": "double"}
SPECIAL = {
    f"%{name}.{axis}": f"t->{name}[{i}]"
    for name in ("tid", "ntid", "ctaid", "nctaid")
    for i, axis in enumerate("xyz")
} | {
    "%laneid": "t->lane",
    "%lanemask_lt": "((1u << t->lane) - 1)",
    "%lanemask_ge": "(-1u << t->lane)",
}
_NAN = "(isnan(a) || isnan(b))"
# The result of each opcode, with the modifiers that matter, in terms of its operands a, b, c and d.
# N is the bits of its type, D the type of twice as many; `t` is the thread.
EXPRESSIONS = {
    "add": "a + b", "sub": "a - b", "mul": "a * b",
    "mul.lo": "a * b", "mul.hi": "((__int128)a * b) >> N", "mul.wide": "(D)a * (D)b",
    "mad.lo": "a * b + c", "mad.wide": "(D)a * (D)b + c", "fma": "fma(a, b, c)",
    "mad.lo.cc": "carried(t, (uint64_t)(uint32_t)(a * b) + (uint32_t)c)",
    "madc.lo": "carried(t, (uint64_t)(uint32_t)(a * b) + (uint32_t)c + t->carry)",
    "madc.hi": "carried(t, (uint64_t)(uint32_t)((D)a * (D)b >> 32) + (uint32_t)c + t->carry)",
    "fma.rm": "rounded('m', (double)a * b + c)", "add.rz": "rounded('z', (double)a + b)",
    "div": "a / b", "rem": "a % b", "neg": "-a", "not": "~a", "not.pred": "!a",
    "copysign": "copysign(b, a)",
    "abs": "fabs(a)", "sqrt": "sqrt(a)", "rsqrt": "1 / sqrt(a)", "rcp": "1 / a",
    "ex2": "exp2(a)", "lg2": "log2(a)", "sin": "sin(a)", "cos": "cos(a)", "tanh": "tanh(a)",
    "min": "a < b ? a : b", "max": "a > b ? a : b",
    "min.f": "fmin(a, b)", "max.f": "fmax(a, b)",
    "min.NaN": f"{_NAN} ? NAN : fmin(a, b)", "max.NaN": f"{_NAN} ? NAN : fmax(a, b)",
    "and": "a & b", "or": "a | b", "xor": "a ^ b",
    "selp": "c ? a : b", "shl": "b >= N ? 0 : a << b",
    "shr": "b >= N ? (a < 0 ? -1 : 0) : a >> b",
    "bfe": "b >= N || !c ? 0 : b + c >= N ? a >> b : a << (N - b - c) >> (N - c)",
    "bfi": "(b & ~(((1ull << d) - 1) << c)) | (a & ((1ull << d) - 1)) << c",
    "shf.l": "((uint64_t)b << 32 | a) << (c & 31) >> 32",
    "shf.r": "((uint64_t)b << 32 | a) >> (c & 31)",
    "popc": "__builtin_popcountll(a)", "clz": "a ? __builtin_clzll(a) - 64 + N : N",
    "bfind.shiftamt": "a ? __builtin_clz(a) : -1", "brev": "reversed(a)",
    "prmt": "permuted(a, b, c)", "cvta": "a",
    "cvta.shared": "a + (uint64_t)t->shared", "cvta.to.shared": "a - (uint64_t)t->shared",
    "vote.ballot": "lanes_with(t, 1, a, b)", "vote.any": "lanes_with(t, 1, a, b) != 0",
    "vote.all": "lanes_with(t, 0, a, b) == 0", "match.any": "lanes_with(t, a, a, b)",
    "bar.red.and": "all_agree(emulated_meet(t, 'b', a, 0, b))",
    **{f"shfl.{to}": f"shuffle(t, '{to[0]}', a, b, c, d)" for to in ("up", "down", "bfly", "idx")},
}  # fmt: skip
# The types of operands that are not the instruction's.
OPERANDS = {
    "shl": "b:u32", "shr": "b:u32", "bfe": "b:u32 c:u32", "bfi": "c:u32",
    "shf.l": "c:u32", "shf.r": "c:u32", "selp": "c:pred", "mad.wide": "c:D",
    "bar.red.and": "a:u32 b:pred", "vote.ballot": "a:pred b:u32",
    "vote.any": "a:pred b:u32", "vote.all": "a:pred b:u32", "match.any": "b:u32",
}  # fmt: skip
RESULTS = {
    "mul.wide": "D", "mad.wide": "D", "popc": "u32", "clz": "u32", "bfind.shiftamt": "u32",
    "bar.red.and": "pred",
}  # fmt: skip
ATOMICS = {
    "add": "old + b", "max": "old > b ? old : b", "min": "old < b ? old : b", "or": "old | b",
    "and": "old & b", "xor": "old ^ b", "exch": "b", "cas": "old == b ? c : old",
}  # fmt: skip
# All but those that end in u, and `nan`, are false of a NaN.
COMPARISONS = {
    "eq": "a == b", "ne": "a < b || a > b", "lt": "a < b", "le": "a <= b", "gt": "a > b",
    "ge": "a >= b", "lo": "a < b", "ls": "a <= b", "hi": "a > b", "hs": "a >= b",
    "equ": "!(a < b || a > b)", "neu": "a != b", "ltu": "!(a >= b)", "leu": "!(a > b)",
    "gtu": "!(a <= b)", "geu": "!(a < b)", "num": "a == a && b == b", "nan": "a != a || b != b",
}  # fmt: skip
CONVERSIONS = {
    "rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil", "sat": "saturated"
}  # fmt: skip
COMBINATIONS = {"and": "&", "or": "|", "xor": "^"}
STATEMENTS = {
    "ret": "return;", "exit": "return;", "trap": "__builtin_trap();",
    "nanosleep": "emulated_interrupt(t);", "membar": "", "fence": "", "prefetch": "",
}  # fmt: skip
WIDER = {"s16": "s32", "s32": "s64", "u16": "u32", "u32": "u64"}
COOPERATE = r"\s(bar|shfl|vote|match)\."


def name_of(ptx_name: str) -> str:
    """Returns a name in C, where GCC allows a dollar sign."""
    return "V" + ptx_name.replace("%", "").replace(".", "_")


def type_in_c(ptx_type: str) -> str:
    if ptx_type in FLOATS:
        return FLOATS[ptx_type]
    return f"{'int' if ptx_type[0] == 's' else 'uint'}{BITS[ptx_type]}_t"


def bits_in_c(ptx_type: str) -> str:
    return f"uint{BITS[ptx_type]}_t"


def split(operands: str) -> list[str]:
    """Splits operands at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", operands) if part.strip()]


def declared(text: str) -> tuple[str, str, int, int]:
    """Parses type, name, count and alignment of `.align 4 .b8 name[8]`; a launch sets a count of
    0."""
    found = re.fullmatch(r"(.*?)([\w$]+)(\[\d*\])?", text.strip(), re.DOTALL)
    assert found, text
    types = [word for word in re.findall(r"\.(\w+)", found[1]) if word in BITS]
    # A pointer's alignment is that of the memory that it points to.
    align = re.search(r"\.align\s+(\d+)", found[1]) if ".ptr" not in found[1] else None
    size = BITS[types[0]] // 8
    count = 1 if found[3] is None else int(found[3][1:-1] or 0)
    return types[0], found[2], count, max(size, int(align[1]) if align else 1)


class Module:
    """A module's variables and kernels."""

    def __init__(self, text: str) -> None:
        text = re.sub(
            r"//[^\n]*|/\*.*?\*/|\.(?:loc|file|pragma)\s[^\n]*", " ", text, flags=re.DOTALL
        )
        self.kernels: dict[str, tuple[str, str, str]] = {}
        """The parameters, directives and body of each kernel, by name."""
        self.functions: dict[str, tuple[str, str, str]] = {}
        """The same of each function, whose result is the first parameter."""
        self.code: dict[str, str] = {}
        """What is translated: functions before those that call them, by name."""
        head = r"\.(entry|func)\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*\(([^)]*)\)([^{;]*)"
        # A scope's end is followed by an instruction, a body's by a directive.
        for found in re.findall(head + r"\{(.*?)\n\}(?=\s*(?:\.|\Z))", text, re.DOTALL):
            kind, result, name, params, directives, body = found
            assert body.count("{") == body.count("}"), f"the end of {name}"
            params = ", ".join(filter(None, (result, params)))
            known = self.kernels if kind == "entry" else self.functions
            known[name] = params, directives, body
        self.offsets: dict[str, int] = {}
        """The offsets of variables in shared memory, by name."""
        self.shared_bytes = 0
        self.globals: dict[str, str] = {}
        """The definitions of global variables in C, by name."""
        declaration = r"(?:\.\w+\s+(?:\d+\s+)?)*[\w$]+(?:\[\d*\])?"
        pattern = rf"\.(shared|global|const)\s+({declaration})(\s*=\s*[^;]*)?;"
        for found in sorted(re.finditer(pattern, text), key=lambda found: "[]" in found[2]):
            self.add_variable(*found.groups())

    def add_variable(self, space: str, declaration: str, value: str | None) -> None:
        kind, name, count, align = declared(declaration)
        size = BITS[kind] // 8 * count
        if space == "shared":  # a variable that the launch sizes comes last, behind all others
            self.offsets[name] = -(-self.shared_bytes // max(align, 16)) * max(align, 16)
            self.shared_bytes = self.offsets[name] + size
            return
        value = re.sub(r"0[fF]([0-9A-Fa-f]{8})", r"0x\1", value or "= {}")
        value = value if "{" in value else value.replace("=", "= {") + "}"
        array = f"{bits_in_c(kind)} G_{name}[{max(count, 1)}] __attribute__((aligned(256)))"
        self.globals[name] = f"{array} {value};\nuint64_t S_{name} = {size};"

    def emit(self, entry: str) -> str:
        for name in self.kernels if entry == "all" else [entry]:
            self.code[name] = Translator(self, name, *self.kernels[name]).emit_kernel()
        code = "\n".join(self.code.values())
        used = [
            text for name, text in self.globals.items() if entry == "all" or f"G_{name}" in code
        ]
        return "\n".join(['#include "kernel.h"', *used, code]) + "\n"


class Translator:
    """Translates one kernel."""

    def __init__(self, module: Module, name: str, params: str, directives: str, body: str) -> None:
        self.module, self.name, self.body = module, name, body
        self.params: dict[str, tuple[int, int]] = {}
        """The offset and size of each parameter, by name."""
        self.params_bytes = 0
        for param in split(params):
            kind, own, count, align = declared(param.replace(".param", "", 1))
            offset = -(-self.params_bytes // align) * align
            self.params[own] = offset, BITS[kind] // 8 * count
            self.params_bytes = sum(self.params[own])
        threads = re.search(r"\.(?:max|req)ntid\s+([\d\s,]+)", directives)
        self.max_threads = math.prod(map(int, threads[1].split(","))) if threads else 1024

    def emit_function(self) -> str:
        """Translates a function, which gets the addresses of its result and parameters."""
        given = "".join(f", uint64_t {name_of(name)}" for name in self.params)
        lines = [self.statement(text) for text in self.statements()]
        return "\n".join([f"static void F{self.name}(Thread* t{given}) {{", *lines, ";}"])

    def emit_kernel(self) -> str:
        given = "".join(f", (uint64_t)t->params + {offset}" for offset, _ in self.params.values())
        offsets = ", ".join(f"{{{offset}, {size}}}" for offset, size in self.params.values())
        spins = re.search(r"nanosleep|ld(\.global)?\.(acquire|volatile|relaxed)", self.body)
        numbers = (len(self.params), self.params_bytes, self.module.shared_bytes, self.max_threads,
                   int(bool(re.search(COOPERATE, self.body))), int(bool(spins)))  # fmt: skip
        return "\n".join([
            self.emit_function(),
            f"static void run_{self.name}(Thread* t) {{ F{self.name}(t{given}); }}",
            f"static const uint32_t params_{self.name}[][2] = {{{offsets or '{0, 0}'}}};",
            f"const Kernel kernel_{self.name} = {{run_{self.name}, {', '.join(map(str, numbers))},"
            f" params_{self.name}}};",
        ])  # fmt: skip

    def statements(self) -> Iterator[str]:
        for text in self.body.split(";"):
            rest = text.strip()
            # Scopes and labels stand before a statement, without a semicolon of their own.
            while found := re.match(r"\{(?!\s*%)|\}|[\w$]+\s*:(?!:)", rest):
                yield found.group()
                rest = rest[found.end() :].strip()
            if rest:
                yield " ".join(rest.split())

    def statement(self, text: str) -> str:
        if text in ("{", "}"):
            return f";{text}"
        if text.endswith(":"):
            return f"L{name_of(text[:-1].strip())}: ;"
        if text.startswith(".reg"):
            return self.declare(text)
        if text.startswith((".local", ".param")):
            kind, name, count, _ = declared(text[len(".local") :])
            array = f"{bits_in_c(kind)} A{name}[{count}] __attribute__((aligned(16)))"
            return f"{array}; uint64_t {name_of(name)} = (uint64_t)A{name};"
        if text.startswith(".shared"):  # the module has it
            return ""
        guard, opcode, operands = re.fullmatch(r"(?:@(!?[%\w]+)\s+)?(\S+)\s*(.*)", text).groups()
        try:
            code = self.instruction(opcode.split("."), split(operands))
        except Exception as error:
            error.add_note(f"{self.name}: {text}")
            raise
        return f"if ({self.raw(guard)}) {{ {code} }}" if guard else code

    def declare(self, text: str) -> str:
        _, kind, names = text.split(maxsplit=2)
        kind = kind.removeprefix(".")
        found = []
        for name in split(names):
            many = re.fullmatch(r"(.*)<(\d+)>", name)
            found += [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]
        return f"{bits_in_c(kind)} {', '.join(f'{name_of(name)} = 0' for name in found)};"

    # ---- operands

    def raw(self, operand: str) -> str:
        """Returns the bits of an operand."""
        if operand.startswith("!"):
            return f"!{self.raw(operand[1:])}"
        if operand in SPECIAL:
            return SPECIAL[operand]
        if found := re.fullmatch(r"0[fFdD]([0-9A-Fa-f]+)", operand):
            return f"0x{found[1]}ull"
        if re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", operand):
            return f"{operand.removesuffix('U')}ull"
        if operand in self.module.offsets:
            return f"{self.module.offsets[operand]}u"
        if operand in self.module.globals:
            return f"(uint64_t)G_{operand}"
        return name_of(operand)  # of a register, parameter or local, else GCC does not know it

    def value(self, operand: str, kind: str) -> str:
        """Returns an operand as its type in C."""
        bits = f"({bits_in_c(kind)})({self.raw(operand)})"
        return f"from_{kind}({bits})" if kind in FLOATS else f"({type_in_c(kind)}){bits}"

    def assign(self, register: str, kind: str, value: str) -> str:
        if register == "_":
            return ""
        typed = f"to_{kind}({value})" if kind in FLOATS else f"({type_in_c(kind)})({value})"
        return f"{name_of(register)} = {typed};"

    def address(self, operand: str, modifiers: list[str]) -> str:
        base, _, offset = operand.strip("[]").partition("+")
        where = f"{self.raw(base.strip())} + {offset.strip() or 0}"
        if "shared" in modifiers:
            return f"(t->shared + (uint32_t)({where}))"
        return f"({where})"

    # ---- instructions

    def instruction(self, words: list[str], operands: list[str]) -> str:
        opcode, modifiers = words[0], words[1:]
        if modifiers and modifiers[-1] in ("f16x2", "bf16x2"):
            return self.halves(words, operands)
        if opcode in STATEMENTS:
            return STATEMENTS[opcode]
        special = getattr(self, f"on_{opcode}", None)
        if special is not None:
            return special(modifiers, operands)
        kinds = [word for word in modifiers if word in BITS]
        return self.expression(opcode, modifiers, kinds[-1] if kinds else "u32", operands)

    def halves(self, words: list[str], operands: list[str]) -> str:
        """Translates an instruction on pairs of 16-bit numbers: that on the lower ones, and that on
        the upper ones. Two predicates take the results of a comparison."""
        target, *sources = operands
        names = [f"%half{i}" for i in range(len(sources))]
        code = "{ uint32_t pair = 0;"
        for half in range(2):
            code += "{ uint16_t Vwhole = 0;"
            for name, source in zip(names, sources, strict=True):
                code += f"uint16_t {name_of(name)} = ({self.raw(source)}) >> {16 * half};"
            own = target.split("|")[half] if "|" in target else "%whole"
            code += self.instruction([*words[:-1], words[-1][:-2]], [own, *names])
            code += f"pair |= (uint32_t)Vwhole << {16 * half}; }}"
        return f"{code} {'' if '|' in target else self.assign(target, 'b32', 'pair')} }}"

    def expression(self, opcode: str, modifiers: list[str], kind: str, operands: list[str]) -> str:
        """Translates by the tables, by the last entry whose modifiers the instruction has."""
        present = {opcode, *modifiers, *("f" for _ in range(kind in FLOATS))}
        known = [n for n in EXPRESSIONS if n.split(".")[0] == opcode and present >= {*n.split(".")}]
        name = known[-1]
        wide = WIDER.get(kind, kind)
        types = {"a": kind, "b": kind, "c": kind, "d": "u32"}
        for entry in OPERANDS.get(name, "").split():
            types[entry[0]] = entry[2:].replace("D", wide)
        result = RESULTS.get(name, kind).replace("D", wide)
        code = re.sub(r"\bN\b", str(BITS[kind]), EXPRESSIONS[name])
        code = re.sub(r"\bD\b", type_in_c(wide), code)
        if "sat" in modifiers:
            code = f"saturated({code})"
        target, _, reached = operands[0].partition("|")
        assigned = self.assign(target, result, code)
        if reached:  # whether the lane that a shuffle takes from is there
            assigned += self.assign(reached, "pred", code.replace("shuffle(", "source_lane(")
                                    .replace(" a,", "").replace(", d)", ") >= 0"))  # fmt: skip
        return f"{{ {self.variables(types, operands[1:])} {assigned} }}"

    def variables(self, types: dict[str, str], operands: list[str]) -> str:
        """Declares variables of types in C that hold operands."""
        return " ".join(
            f"{type_in_c(kind)} {name} = {self.value(operand, kind)};"
            for (name, kind), operand in zip(types.items(), operands, strict=False)
        )

    def on_mov(self, modifiers: list[str], operands: list[str]) -> str:
        kind, (target, source) = modifiers[-1], operands
        own = "pred" if kind == "pred" else f"b{BITS[kind]}"
        parts = split((target if target.startswith("{") else source).strip("{}"))
        each = BITS[kind] // len(parts)
        if target.startswith("{"):  # takes a register apart
            pieces = [self.assign(p, f"b{each}", f"a >> {each * i}") for i, p in enumerate(parts)]
            return f"{{ uint64_t a = {self.raw(source)}; {' '.join(pieces)} }}"
        if source.startswith("{"):
            pieces = [f"(uint64_t)(uint{each}_t)({self.raw(part)})" for part in parts]
            whole = " | ".join(f"{piece} << {each * i}" for i, piece in enumerate(pieces))
            return self.assign(target, own, whole)
        return self.assign(target, own, self.raw(source))

    def on_ld(self, modifiers: list[str], operands: list[str]) -> str:
        kind, targets = modifiers[-1], split(operands[0].strip("{}"))
        if kind in FLOATS:
            kind = f"b{BITS[kind]}"
        own, size = type_in_c(kind), BITS[kind] // 8
        code = [f"uint64_t at = (uint64_t){self.address(operands[1], modifiers)};"]
        # All of them before any is assigned: one may hold the address.
        code += [f"{own} v{i} = LOAD({own}, at + {size * i});" for i in range(len(targets))]
        code += [self.assign(target, kind, f"v{i}") for i, target in enumerate(targets)]
        return f"{{ {' '.join(code)} }}"

    def on_st(self, modifiers: list[str], operands: list[str]) -> str:
        kind, sources = modifiers[-1], split(operands[1].strip("{}"))
        at = self.address(operands[0], modifiers)
        return " ".join(
            f"STORE({bits_in_c(kind)}, {at} + {BITS[kind] // 8 * i}, {self.raw(source)});"
            for i, source in enumerate(sources)
        )

    def on_setp(self, modifiers: list[str], operands: list[str]) -> str:
        kind, code = modifiers[-1], f"({COMPARISONS[modifiers[0]]})"
        for modifier in COMBINATIONS.keys() & {*modifiers}:
            code += f" {COMBINATIONS[modifier]} c"
        variables = self.variables({"a": kind, "b": kind, "c": "pred"}, operands[1:])
        return f"{{ {variables} {self.assign(operands[0], 'pred', code)} }}"

    def on_cvt(self, modifiers: list[str], operands: list[str]) -> str:
        to, of = modifiers[-2:]
        if to.endswith("x2"):
            high, low = (f"to_{to[:-2]}({self.value(operand, of)})" for operand in operands[1:3])
            return self.assign(operands[0], "b32", f"(uint32_t){high} << 16 | {low}")
        code = self.value(operands[1], of)
        for modifier, function in CONVERSIONS.items():
            if modifier in modifiers:
                code = f"{function}({code})"
        if of in FLOATS and to not in FLOATS:
            assert to in ("s32", "s64"), to
            code = f"to_integer({code}, 0x1p{BITS[to] - 1})"
        return self.assign(operands[0], to, code)

    def on_bra(self, modifiers: list[str], operands: list[str]) -> str:
        return f"goto L{name_of(operands[0])};"

    def on_call(self, modifiers: list[str], operands: list[str]) -> str:
        words = re.findall(r"[\w$]+", " ".join(operands))
        (name,) = (word for word in words if word in self.module.functions)
        if name not in self.module.code:
            callee = Translator(self.module, name, *self.module.functions[name])
            if re.search(COOPERATE, callee.body):
                raise ValueError(f"{name}: lanes that cooperate in a function")
            self.module.code[name] = callee.emit_function()
        given = "".join(f", {self.raw(word)}" for word in words if word != name)
        return f"F{name}(t{given});"

    def on_bar(self, modifiers: list[str], operands: list[str]) -> str:
        if "red" in modifiers:
            return self.expression("bar", modifiers, "pred", operands)
        if "warp" in modifiers:
            return f"emulated_meet(t, 'w', {self.raw(operands[0])}, 0, 0);"
        count = self.raw(operands[1]) if len(operands) > 1 else "0"
        return f"emulated_meet(t, 'b', {self.raw(operands[0])}, {count}, 0);"

    def on_atom(self, modifiers: list[str], operands: list[str]) -> str:
        kind = next(word for word in modifiers if word in BITS)
        operation = next(word for word in modifiers if word in ATOMICS)
        values = split(operands[2].strip("{}"))
        if len(values) > 1:  # of a vector: each of its elements is atomic, not all together
            olds = split(operands[0].strip("{}")) if "{" in operands[0] else ["_"] * len(values)
            places = [f"{operands[1][:-1]} + {BITS[kind] // 8 * i}]" for i in range(len(values))]
            each = zip(olds, places, values, strict=True)
            return " ".join(self.on_atom(modifiers, list(one)) for one in each)
        variables = self.variables({"b": kind, "c": kind}, operands[2:])
        old = f"from_{kind}(old)" if kind in FLOATS else f"({type_in_c(kind)})old"
        code = ATOMICS[operation].replace("old", old)
        code = f"to_{kind}({code})" if kind in FLOATS else code
        old = f"ATOMIC({bits_in_c(kind)}, {self.address(operands[1], modifiers)}, {code})"
        return f"{{ {variables} {self.assign(operands[0], f'b{BITS[kind]}', old) or old + ';'} }}"

    def on_red(self, modifiers: list[str], operands: list[str]) -> str:
        return self.on_atom(modifiers, ["_", *operands])


if __name__ == "__main__":
    sys.stdout.write(Module(sys.stdin.read()).emit(sys.argv[1]))
