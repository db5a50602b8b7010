"""Translates one PTX kernel to C, an instruction to a statement, for `ptx_machine.h` to run.

Registers are local variables of unsigned types, so that arithmetic wraps as PTX's does; each starts as a NaN, an
address that no tensor has, or true, so that one used before it is written shows. What is not listed here is refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from ptx_parse import Address, Instruction, Kernel, Label, Operand, PtxError, size

_HEADER = Path(__file__).parent / "ptx_machine.h"
_UNSIGNED = {1: "bool", 8: "uint8_t", 16: "uint16_t", 32: "uint32_t", 64: "uint64_t"}
_SIGNED = {8: "int8_t", 16: "int16_t", 32: "int32_t", 64: "int64_t"}
_UNWRITTEN = {1: "true", 16: "0xffad", 32: "0xffdeadad", 64: "0xdeadad00deadad00"}
_SPECIAL = {"%tid.x": "tid", "%ntid.x": "THREADS"}
_SPECIAL |= {f"%ctaid.{axis}": f"program[{i}]" for i, axis in enumerate("xyz")}
_SPECIAL |= {f"%nctaid.{axis}": f"programs[{i}]" for i, axis in enumerate("xyz")}

# {0}, {1} and so on are operands, all of the instruction's type; _f: as floats.
_FLOATS = {
    "add": "as_bits({1f} + {2f})",
    "sub": "as_bits({1f} - {2f})",
    "mul": "as_bits({1f} * {2f})",
    "add.rn": "as_bits({1f} + {2f})",
    "sub.rn": "as_bits({1f} - {2f})",
    "mul.rn": "as_bits({1f} * {2f})",
    "fma.rn": "as_bits(fmaf({1f}, {2f}, {3f}))",
    "add.sat": "as_bits(saturated({1f} + {2f}))",
    "sub.sat": "as_bits(saturated({1f} - {2f}))",
    "abs": "{1} & 0x7fffffff",
    "neg": "{1} ^ 0x80000000",
    "max.NaN": "as_bits(larger_or_nan({1f}, {2f}))",
    "min.NaN": "as_bits(smaller_or_nan({1f}, {2f}))",
}
_BITS = {
    "and": "{1} & {2}",
    "or": "{1} | {2}",
    "xor": "{1} ^ {2}",
    "not": "~{1}",
    "mov": "{1}",
}
_INTEGERS = {
    "add": "{1} + {2}",
    "sub": "{1} - {2}",
    "neg": "0 - {1}",
    "mul.lo": "{1} * {2}",
    "mad.lo": "{1} * {2} + {3}",
    "min": "{1s} < {2s} ? {1} : {2}",
    "max": "{1s} > {2s} ? {1} : {2}",
    "mov": "{1}",
}
_ORDERED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SAME = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_TOGETHER = {
    "shfl.sync.bfly.b32": "SHUFFLE_BFLY",
    "shfl.sync.idx.b32": "SHUFFLE_IDX",
    "redux.sync.max.s32": "REDUCE_MAX_S32",
    "redux.sync.or.b32": "REDUCE_OR_B32",
}


def translate(kernel: Kernel) -> str:
    return _Translation(kernel).text()


class _Translation:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.is_together = False

    def text(self) -> str:
        body = [f"    {self._statement(at, part)}" for at, part in enumerate(self.kernel.body)]
        declared = [
            f"    {_UNSIGNED[bits]} {name.removeprefix('%')} = {_UNWRITTEN[bits]};"
            for name, bits in self.kernel.registers.items()
        ]
        return "\n".join(
            [
                f"#define THREADS {self.kernel.threads}",
                f"#define IS_TOGETHER {int(self.is_together)}",
                _HEADER.read_text(encoding="utf-8"),
                "static void kernel(uint32_t tid) {",
                *declared,
                *body,
                "}\n",
            ]
        )

    def _statement(self, at: int, part: Label | Instruction) -> str:
        if isinstance(part, Label):
            return f"{part.name.removeprefix('$')}:;"
        try:
            statement = self._instruction(at, part)
        except PtxError as error:
            raise PtxError(f"{error} in `{part.text}`, {part.source}") from None
        if not part.predicate:
            return statement
        name = part.predicate.removeprefix("!")
        no = "!" if part.predicate.startswith("!") else ""
        return f"if ({no}{self._value(name, 1)}) {{ {statement} }}"

    def _instruction(self, at: int, it: Instruction) -> str:
        name, *kinds = it.opcode.split(".")
        if name == "bra" and kinds in ([], ["uni"]):
            return f"if (is_endless({at})) return; goto {str(it.operands[0]).removeprefix('$')};"
        if it.opcode == "ret" and not it.operands:
            return "return;"
        if name in ("ld", "st"):
            return self._memory(at, name, kinds, it.operands)
        if it.opcode in _TOGETHER or "sync" in kinds:
            return self._together(at, it)
        if name == "setp":
            return self._comparison(kinds, it.operands)
        if name == "cvt":
            return self._conversion(kinds, it.operands)
        if name == "mov" and any(isinstance(operand, list) for operand in it.operands[:2]):
            return self._parts(kinds, it.operands)
        return self._arithmetic(at, name, kinds, it.operands)

    # What operands are in C.

    def _register(self, operand: Operand, bits: int) -> str:
        if not isinstance(operand, str) or self.kernel.registers.get(operand) != bits:
            raise PtxError(f"operand {operand}, not a register of {bits} bits,")
        return operand.removeprefix("%")

    def _value(self, operand: Operand, bits: int) -> str:
        """An expression of the unsigned type of `bits`."""
        if not isinstance(operand, str):
            raise PtxError(f"operand {operand}")
        if operand in _SPECIAL and bits == 32:
            return _SPECIAL[operand]
        if operand == "global_smem" and bits in (32, 64):
            return f"(({_UNSIGNED[bits]})0)"
        if operand.startswith("%"):
            return self._register(operand, bits)
        if re.fullmatch(r"0f[0-9A-Fa-f]{8}", operand) and bits == 32:
            return f"0x{operand[2:]}u"
        if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", operand):
            number = int(operand, 0)
            if not -(1 << bits) < number < 1 << bits:
                raise PtxError(f"number {operand}")
            return f"(({_UNSIGNED[bits]})0x{number % (1 << bits):x}ull)"
        raise PtxError(f"operand {operand}")

    def _filled(self, template: str, kind: str, operands: list[Operand]) -> str:
        """`template` with its operands, and the first operand set to it."""
        bits = size(kind)
        target, *others = operands
        wanted = {int(number) for number in re.findall(r"\{(\d)", template)}
        if wanted != set(range(1, len(others) + 1)):
            raise PtxError(f"{len(operands)} operands")
        values = [self._value(other, bits) for other in others]

        def fill(match: re.Match[str]) -> str:
            value = values[int(match[1]) - 1]
            if match[2] == "f":
                return f"as_float({value})"
            return f"({_SIGNED[bits]}){value}" if match[2] == "s" and kind[0] == "s" else value

        expression = re.sub(r"\{(\d)([fs]?)\}", fill, template)
        return f"{self._register(target, bits)} = {expression};"

    # Kinds of instructions.

    def _arithmetic(self, at: int, name: str, kinds: list[str], operands: list[Operand]) -> str:
        if not kinds:
            raise PtxError("unknown instruction")
        *how, kind = kinds
        bits, full = size(kind), ".".join([name, *how])
        if kind == "pred" and full in _BITS:
            return self._filled(_BITS[full].replace("~", "!"), kind, operands)
        if kind[0] == "b" and full in _BITS:
            return self._filled(_BITS[full], kind, operands)
        if kind == "f32" and full in _FLOATS:
            return self._filled(_FLOATS[full], kind, operands)
        if kind[0] in "us" and bits >= 16 and full in _INTEGERS:
            return self._filled(_INTEGERS[full], kind, operands)
        if full in ("mul.wide", "mad.wide") and kind in ("s32", "u32"):
            return self._wide(kind, operands, is_sum=name == "mad")
        if full in ("div", "rem") and kind in ("s32", "u32"):
            return self._filled(f"divided_{kind}({{1}}, {{2}}, {int(name == 'rem')}, {at})", kind, operands)
        if full in ("shl", "shr") and bits >= 16:
            return self._shift(full, kind, operands)
        if full == "bfe" and bits == 32:
            return self._filled(f"field({{1}}, {{2}}, {{3}}, {int(kind == 's32')})", kind, operands)
        if full == "selp" and len(operands) == 4:
            target, yes, no, condition = operands
            chosen = f"{self._value(condition, 1)} ? {self._value(yes, bits)} : {self._value(no, bits)}"
            return f"{self._register(target, bits)} = {chosen};"
        raise PtxError("unknown instruction")

    def _wide(self, kind: str, operands: list[Operand], is_sum: bool) -> str:
        if len(operands) != 3 + is_sum:
            raise PtxError(f"{len(operands)} operands")
        a, b = (self._value(operand, 32) for operand in operands[1:3])
        through = "(int64_t)(int32_t)" if kind == "s32" else "(uint64_t)"
        more = f" + {self._value(operands[3], 64)}" if is_sum else ""
        return f"{self._register(operands[0], 64)} = (uint64_t)({through}{a} * {through}{b}){more};"

    def _shift(self, name: str, kind: str, operands: list[Operand]) -> str:
        """By more than there are bits: PTX shifts all of them out."""
        bits = size(kind)
        target, operand, by = operands
        value, count = self._value(operand, bits), self._value(by, 32)
        if name == "shl":
            shifted = f"{count} < {bits} ? {value} << {count} : 0"
        elif kind[0] == "s":
            shifted = f"({_SIGNED[bits]}){value} >> ({count} < {bits} ? {count} : {bits - 1})"
        else:
            shifted = f"{count} < {bits} ? {value} >> {count} : 0"
        return f"{self._register(target, bits)} = {shifted};"

    def _comparison(self, kinds: list[str], operands: list[Operand]) -> str:
        if len(kinds) != 2 or len(operands) != 3:
            raise PtxError("unknown instruction")
        how, kind = kinds
        bits = size(kind)
        a, b = (self._value(operand, bits) for operand in operands[1:])
        result = ""
        if kind == "f32":
            a, b = f"as_float({a})", f"as_float({b})"
            if how in ("nan", "num"):
                result = f"{'!' if how == 'num' else ''}(isnan({a}) || isnan({b}))"
            elif how == "ne":  # of numbers alone
                result = f"{a} < {b} || {a} > {b}"
            elif how in _ORDERED:
                result = f"{a} {_ORDERED[how]} {b}"
            elif how.endswith("u") and how[:-1] in _ORDERED:
                result = f"isnan({a}) || isnan({b}) || {a} {_ORDERED[how[:-1]]} {b}"
        elif kind[0] == "b" and how in ("eq", "ne"):
            result = f"{a} {_ORDERED[how]} {b}"
        elif kind[0] in "us" and bits >= 16:
            sign = f"({_SIGNED[bits]})" if kind[0] == "s" else ""
            order = _ORDERED.get(how) or _SAME.get(how if kind[0] == "u" else "")
            result = f"{sign}{a} {order} {sign}{b}" if order else ""
        if not result:
            raise PtxError("unknown comparison")
        return f"{self._register(operands[0], 1)} = {result};"

    def _conversion(self, kinds: list[str], operands: list[Operand]) -> str:
        full = ".".join(kinds)
        halves = {"rn.bf16.f32": "to_bf16", "rn.f16.f32": "to_f16"}
        pairs = {"rn.bf16x2.f32": "to_bf16", "rn.f16x2.f32": "to_f16"}
        if full in halves and len(operands) == 2:
            return f"{self._register(operands[0], 16)} = {halves[full]}({self._value(operands[1], 32)});"
        if full in pairs and len(operands) == 3:
            high, low = (f"(uint32_t){pairs[full]}({self._value(operand, 32)})" for operand in operands[1:])
            return f"{self._register(operands[0], 32)} = {high} << 16 | {low};"
        if full == "f32.f16" and len(operands) == 2:
            return f"{self._register(operands[0], 32)} = from_f16({self._value(operands[1], 16)});"
        if full == "f32.bf16" and len(operands) == 2:
            return f"{self._register(operands[0], 32)} = (uint32_t){self._value(operands[1], 16)} << 16;"
        if len(kinds) == 2 and len(operands) == 2 and all(re.fullmatch(r"[us](16|32|64)", kind) for kind in kinds):
            to, source = kinds
            value = self._value(operands[1], size(source))
            sign = f"({_SIGNED[size(source)]})" if source[0] == "s" else ""
            return f"{self._register(operands[0], size(to))} = ({_UNSIGNED[size(to)]}){sign}{value};"
        raise PtxError("unknown conversion")

    def _parts(self, kinds: list[str], operands: list[Operand]) -> str:
        """Halves to a register, low one first, or a register to halves."""
        if kinds not in (["b32"], ["b64"]) or len(operands) != 2:
            raise PtxError("unknown instruction")
        bits = size(kinds[0])
        target, source = operands
        if isinstance(source, list) and len(source) == 2:
            low, high = (f"({_UNSIGNED[bits]}){self._value(part, bits // 2)}" for part in source)
            return f"{self._register(target, bits)} = {low} | {high} << {bits // 2};"
        if isinstance(target, list) and len(target) == 2:
            value, half = self._value(source, bits), _UNSIGNED[bits // 2]
            written = [
                f"{self._register(part, bits // 2)} = ({half})(whole >> {shift});"
                for part, shift in zip(target, (0, bits // 2), strict=True)
                if part != "_"
            ]
            return f"{{ {_UNSIGNED[bits]} whole = {value}; {' '.join(written)} }}"
        raise PtxError("unknown instruction")

    def _memory(self, at: int, name: str, kinds: list[str], operands: list[Operand]) -> str:
        space, *rest = kinds
        count = int(rest.pop(0)[1:]) if rest and rest[0] in ("v2", "v4", "v8") else 1
        if len(rest) != 1 or len(operands) != 2:
            raise PtxError("unknown access")
        bits = size(rest[0])
        where, what = operands if name == "st" else operands[::-1]
        registers = what if isinstance(what, list) else [what]
        if not isinstance(where, Address) or len(registers) != count:
            raise PtxError("unknown access")
        if space == "param" and name == "ld" and count == 1:
            return self._parameter(rest[0], where, what)
        total = bits // 8 * count
        if space == "global":
            address = f"{self._value(where.base, 64)} + {where.offset}ull"
            place = f"global({address}, {total}, {str(name == 'st').lower()}, {at})"
        elif space in ("shared", "shared::cta"):
            place = f"shared({self._value(where.base, 32)} + {where.offset}u, {total}, {at})"
        else:
            raise PtxError("unknown space")
        moves = []
        for i, register in enumerate(registers):
            if name == "ld":
                own = self._register(register, self._width(register, bits))
                moves.append(f"{{ {self._kind(rest[0])} part; memcpy(&part, place + {i * bits // 8}, sizeof part);")
                moves.append(f"{own} = part; }}")
            else:
                moves.append(f"{{ {_UNSIGNED[bits]} part = {self._value(register, bits)};")
                moves.append(f"memcpy(place + {i * bits // 8}, &part, sizeof part); }}")
        return f"{{ char *place = {place}; {' '.join(moves)} }}"

    def _kind(self, kind: str) -> str:
        return (_SIGNED if kind[0] == "s" else _UNSIGNED)[size(kind)]

    def _width(self, register: Operand, bits: int) -> int:
        """Of the register that a load of `bits` fills, which may be wider."""
        width = self.kernel.registers.get(register, 0) if isinstance(register, str) else 0
        if width < bits:
            raise PtxError(f"operand {register}")
        return width

    def _parameter(self, kind: str, where: Address, target: Operand) -> str:
        if where.base not in self.kernel.parameters or where.offset:
            raise PtxError(f"parameter {where}")
        if size(self.kernel.parameters[where.base]) < size(kind):
            raise PtxError(f"more than parameter {where.base} has")
        index = list(self.kernel.parameters).index(where.base)
        register = self._register(target, self._width(target, size(kind)))
        return f"{register} = ({self._kind(kind)})parameters[{index}];"

    def _together(self, at: int, it: Instruction) -> str:
        self.is_together = True
        if it.predicate:
            raise PtxError("predicated")
        if it.opcode == "bar.sync" and it.operands == ["0"]:
            return f"meet({at}, BARRIER, 0, 0, 0, UINT32_MAX);"
        if it.opcode in _TOGETHER:
            target, *given, mask = it.operands
            values = [*(self._value(operand, 32) for operand in given), "0", "0"][:3]
            register = self._register(target, 32)
            values = ", ".join([*values, self._value(mask, 32)])
            return f"meet({at}, {_TOGETHER[it.opcode]}, {values}); {register} = result(0);"
        return self._matrices(at, it)

    def _matrices(self, at: int, it: Instruction) -> str:
        found = re.fullmatch(r"(ld|st)matrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16", it.opcode)
        if not found or len(it.operands) != 2:
            raise PtxError("unknown instruction")
        where, parts = it.operands if found[1] == "st" else it.operands[::-1]
        if not isinstance(where, Address) or not isinstance(parts, list) or len(parts) != int(found[2]):
            raise PtxError("unknown matrices")
        row, is_transposed = f"{self._value(where.base, 32)} + {where.offset}u", int(bool(found[3]))
        given = ", ".join(self._value(part, 32) for part in parts) if found[1] == "st" else "0"
        what = "MATRIX_STORE" if found[1] == "st" else "MATRIX_LOAD"
        meeting = f"meet_matrices({at}, {what}, {row}, {is_transposed}, {len(parts)}, (uint32_t[4]){{{given}}});"
        if found[1] == "ld":
            for i, part in enumerate(parts):
                meeting += f" {self._register(part, 32)} = result({i});"
        return meeting
