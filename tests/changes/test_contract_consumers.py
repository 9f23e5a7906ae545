"""The code that consumes a place of the contract is found from the types, and nothing else is.

Each case is an invented contract and package. A comment marks each line that must be found:
`# direct`, or `# via` and the names through which the line depends on the place. All other lines
must not be found, so that the lines without a comment are the counterexamples.
"""

from __future__ import annotations

import ast
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract_diff.consumers import Code
from contract_diff.symbols import made_names

PROJECT = Path(__file__).parents[2]
REFERENCE = "#/components/schemas/"
CONTRACT: dict[str, Any] = {
    "paths": {
        "/pay": {
            "post": {
                "operationId": "pay_bill",
                "tags": ["bills"],
                "parameters": [{"$ref": "#/components/parameters/ShopId"}],
                "responses": {
                    "200": {"headers": {"X-Origin": {"schema": {"$ref": f"{REFERENCE}Origin"}}}},
                    "400": {"headers": {"X-Origin": {"schema": {"$ref": f"{REFERENCE}Origin"}}}},
                },
            }
        }
    },
    "components": {
        "parameters": {
            "ShopId": {
                "name": "X-Shop-ID",
                "in": "header",
                "required": True,
                "schema": {"$ref": f"{REFERENCE}ShopId"},
            }
        },
        "schemas": {
            "ShopId": {"type": "string", "maxLength": 8},
            "Origin": {"type": "string", "enum": ["SHOP", "BANK"]},
            "Kind": {"type": "string", "enum": ["card", "cash"]},
            "Bill": {
                "required": ["kind"],
                "properties": {
                    "kind": {"$ref": f"{REFERENCE}Kind"},
                    "note": {"type": "string", "maxLength": 20},
                },
            },
            "Answer": {
                "properties": {
                    "amount": {"type": "integer"},
                    "note": {"type": "string"},
                    "type": {"type": "string"},
                }
            },
        },
    },
}
SCHEMAS = ("components", "schemas")
OPERATION = ("paths", "/pay", "post")
RESPONSE = (*OPERATION, "responses", "200")

NAMES = '''
from enum import StrEnum
from typing import Final, Literal
from attrs import frozen

SHOP_ID: Final = "X-Shop-ID"{shop_id}
ORIGIN: Final = "X-Origin"{origin}
MAX_ID: Final = 8{max_id}
Member = Literal["amount", "note"]{member}

class Origin(StrEnum):
    SHOP = "SHOP"
    BANK = "BANK"{bank}

@frozen
class Meta:
    origin: Origin
    size: int

@frozen
class Receipt:
    """A receipt with an origin: note, amount, ORIGIN."""

    origin: Origin
    meta: Meta
'''
MARKS = dict.fromkeys(("shop_id", "origin", "max_id", "member", "bank"), "")
PINS = """
from blink_oauth_api import contract
from shop.names import ORIGIN, Member

def pinned(headers: contract.PayBillResponseHeaders, answer: contract.AnswerMembers, one: Member):
    return (
        headers[ORIGIN],{origin}
        answer[one],{member}
    )
"""

CASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "import of a generated name": (
        (*SCHEMAS, "Kind"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api.models.kind import Kind  # direct
                from shop.kinds import Kind as OurKind
                KIND = "blink_oauth_api.models.kind.Kind"
                """,
            "wrapper/shop/kinds.py": """
                class Kind: pass
                """,
        },
    ),
    "import of an operation": (
        (*OPERATION, "operationId"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api import contract
                from blink_oauth_api.api.bills import (  # direct
                    pay_bill,
                )
                from blink_oauth_api.client import Client
                path = contract.PAY_BILL_PATH  # direct
                pay_bill.sync_detailed(client=Client(), x_shop_id="1")
                """,
        },
    ),
    "path of an operation": (
        ("paths", "/pay"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api import contract as made
                from blink_oauth_api.api import bills
                path = made.PAY_BILL_PATH  # direct
                print(
                    bills.pay_bill,  # direct
                    bills.other,
                    "/pay",
                )
                """,
        },
    ),
    "key of a TypedDict by a constant": (
        (*RESPONSE, "headers", "X-Origin"),
        {
            "wrapper/shop/names.py": NAMES.format(**MARKS | {"origin": "  # via ORIGIN"}),
            "wrapper/shop/_api.py": """
                from blink_oauth_api import contract
                from . import names
                from .names import ORIGIN as NAME, SHOP_ID
                def check(headers: contract.PayBillResponseHeaders, own: dict[str, str]):
                    yield headers[  # direct
                        NAME  # via ORIGIN
                    ], headers[SHOP_ID]
                    yield headers[names.ORIGIN]  # direct
                    yield headers["X-Origin"]  # direct
                    yield own["X-Origin"], "X-Origin"
                    yield own[NAME]  # via ORIGIN
                """,
        },
    ),
    "keyword of a constructor": (
        (*SCHEMAS, "Bill", "properties", "note"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api import contract
                from blink_oauth_api.models.bill import Bill
                from shop.own import Bill as OurBill
                limit = contract.BILL_NOTE_MAX_LENGTH  # direct
                bill = Bill(  # direct
                    kind="card",
                    note="text",
                )
                other = Bill(kind="note")
                ours = OurBill(note="text")
                print(bill.note, other.kind)  # direct
                """,
            "wrapper/shop/own.py": """
                class Bill:
                    note: str
                """,
        },
    ),
    "required field": (
        (*SCHEMAS, "Bill", "required", "kind"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api.models.bill import Bill
                from blink_oauth_api.types import UNSET
                Bill(kind="card")
                Bill(note="text")  # direct
                Bill(*fields)
                def bill(is_known: bool):
                    return Bill(
                        kind="card" if is_known else UNSET,  # direct
                        note=UNSET,
                    )
                """,
        },
    ),
    "type of a field": (
        (*SCHEMAS, "Bill", "properties", "note", "type"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api.models.bill import Bill
                Bill(
                    kind="card",
                    note="text",  # direct
                )
                """,
        },
    ),
    "mapping of a TypedDict": (
        ("components", "parameters", "ShopId", "name"),
        {
            "wrapper/shop/_api.py": """
                from typing import TypedDict
                from attrs import frozen
                from blink_oauth_api.api.bills import pay_bill
                class Headers(TypedDict):
                    x_shop_id: str
                class Others(TypedDict):
                    x_other: str
                @frozen
                class Call:
                    headers: Headers
                    others: Others
                async def send(call: Call, unknown):
                    pay_bill.sync_detailed(**call.headers)  # direct
                    await pay_bill.asyncio_detailed(  # direct
                        x_shop_id="1",
                    )
                    pay_bill.sync_detailed(**call.others)  # direct
                    print(**call.headers)
                """,
        },
    ),
    "parameter that an operation does not require": (
        ("components", "parameters", "ShopId", "required"),
        {
            "wrapper/shop/_api.py": """
                from blink_oauth_api.api.bills import pay_bill
                from typing import TypedDict
                class Headers(TypedDict):
                    x_shop_id: str
                pay_bill.sync(x_shop_id="1")
                pay_bill.sync(other="1")  # direct
                def send(headers: Headers):
                    pay_bill.sync(**headers)
                """,
        },
    ),
    "value of an enumeration": (
        (*SCHEMAS, "Kind", "enum", "cash"),
        {
            "wrapper/shop/_api.py": """
                from enum import Enum
                from blink_oauth_api.models.bill import Bill
                class Way(Enum):
                    CARD = "card"
                    CASH = "cash"  # via Way.CASH
                    UNKNOWN = "unknown"
                class Tint(Enum):
                    CASH = "cash"
                def pay(way: Way, tint: Tint):
                    Bill(kind=way.value)  # direct
                    Bill(kind="card")
                    Bill(
                        kind="cash",  # direct
                        note="cash",
                    )
                    return way is Way.CASH, Tint.CASH, "cash"  # via Way.CASH
                """,
        },
    ),
    "status that is known": (
        (*OPERATION, "responses", "400"),
        {
            "wrapper/shop/_api.py": """
                from typing import Literal
                from blink_oauth_api import contract
                Known = Literal[200, 400]  # via Known
                def is_known(status: contract.PayBillStatus) -> Known:
                    return status
                def is_documented(status: Known) -> contract.PayBillStatus:
                    return status  # direct
                def both(status: Known, number: int) -> tuple[contract.PayBillStatus, int]:
                    return status, number  # direct
                def ours(status: Known) -> Known:
                    return status
                def noted(status: Known):
                    found: contract.PayBillStatus = status  # direct
                """,
        },
    ),
    "status that is not known": (
        (*OPERATION, "responses", "400"),
        {
            "wrapper/shop/_api.py": """
                from typing import Literal
                from blink_oauth_api import contract
                Known = Literal[200]  # via Known
                def is_known(status: contract.PayBillStatus) -> Known:
                    return status  # direct
                def is_documented(status: Known) -> contract.PayBillStatus:
                    return status
                """,
        },
    ),
    "limit that a constant repeats": (
        (*SCHEMAS, "ShopId", "maxLength"),
        {
            "wrapper/shop/names.py": NAMES.format(**MARKS | {"max_id": "  # via MAX_ID"}),
            "wrapper/shop/_api.py": """
                from blink_oauth_api import contract
                from .names import MAX_ID
                assert MAX_ID == contract.SHOP_ID_MAX_LENGTH  # direct
                assert MAX_ID == contract.BILL_NOTE_MAX_LENGTH  # via MAX_ID
                """,
            "keeper/guard/own.py": """
                from typing import Final
                import shop.names as limits
                MAX_ID: Final = 8
                def fits(text: str, limit: "limits.MAX_ID" = 8) -> bool:
                    return len(text) <= MAX_ID or len(text) <= 8
                def fits_too(text: str) -> bool:
                    return len(text) <= limits.MAX_ID  # via MAX_ID
                """,
        },
    ),
    "constant that is made of a constant": (
        (*RESPONSE, "headers", "X-Origin"),
        {
            "wrapper/shop/names.py": NAMES.format(**MARKS | {"origin": "  # via ORIGIN"}),
            "wrapper/shop/_api.py": PINS.format(origin="  # direct", member=""),
            "keeper/guard/known.py": """
                from shop.names import ORIGIN, SHOP_ID
                ALL = frozenset({ORIGIN, SHOP_ID})  # via ORIGIN
                OTHERS = {name: 1 for name in (SHOP_ID,)}
                LOWER = {name.lower() for name in ALL}  # via ALL
                name = "X-Origin"
                def is_known(name: str, LOWER_CASE: str) -> bool:
                    return name in LOWER or name in OTHERS  # via LOWER
                """,
        },
    ),
    "attribute that a keyword fills": (
        (*RESPONSE, "headers", "X-Origin"),
        {
            "wrapper/shop/names.py": NAMES.format(**MARKS | {"origin": "  # via ORIGIN"}),
            "wrapper/shop/_api.py": PINS.format(origin="  # direct", member=""),
            "wrapper/shop/read.py": """
                from collections.abc import Callable, Mapping, Sequence
                from .names import ORIGIN, Meta, Origin, Receipt
                def read(headers: Mapping[str, str]) -> Meta:
                    text = headers.get(ORIGIN, "")  # via ORIGIN
                    return Meta(  # via Meta.origin
                        origin=parsed(text),
                        size=SIZES[text],
                    )
                def built(text: str) -> Meta:
                    return Meta(  # via Meta.origin
                        origin=Origin.SHOP,
                        size=1,
                    )
                def receipts(headers: Mapping[str, str]):
                    yield Receipt(origin=Origin.SHOP, meta=built(headers[ORIGIN]))  # via ORIGIN
                    yield Receipt(meta=built(text=headers[ORIGIN]))  # via ORIGIN
                    yield Receipt(meta={ORIGIN: 1})  # via ORIGIN
                SIZES = {"": 0}
                def parsed(text: str) -> Origin:
                    return Origin(text)
                def receipt(meta: Meta) -> Receipt:
                    return Receipt(
                        origin=Origin.SHOP,
                        meta=meta,
                    )
                """,
            "keeper/guard/use.py": """
                from contextlib import contextmanager
                from attrs import evolve, frozen
                from shop.names import Meta, Origin, Receipt
                from shop.read import read
                @frozen
                class Holder:
                    metas: dict[str, Meta]
                    last: "Meta | None"
                    other: object
                    @property
                    def origin(self) -> Origin | None:
                        return self.last.origin if self.last else None  # via Meta.origin
                    def sizes(self):
                        return [one.size for one in self.metas.values()]
                    def origins(self):
                        return {one.origin for one in self.metas.values()}  # via Meta.origin
                    def pairs(self):
                        for name, one in self.metas.items():
                            yield name, one.origin  # via Meta.origin
                @contextmanager
                def opened() -> "Iterator[Meta]":
                    yield read({})
                def use(receipt: Receipt, holder: Holder, thing, value: object):
                    print(receipt.origin, thing.origin, "origin", value.origin)
                    print(receipt.meta.origin)  # via Meta.origin
                    print(holder.origin)  # via Holder.origin
                    print(read({}).origin)  # via Meta.origin
                    with opened() as entered:
                        print(entered.origin)  # via Meta.origin
                    (first, _), count = (read({}), 1), 2
                    return evolve(holder.last, origin=Origin.SHOP)  # via Meta.origin
                def narrowed(value: object, other: object):
                    if isinstance(value, Meta):
                        return value.origin  # via Meta.origin
                    match other:
                        case Receipt(meta=Meta() as meta):
                            print(other.origin)
                            return meta.origin  # via Meta.origin
                def matched(value: object, other: object):
                    match value:
                        case Receipt() | Meta():
                            print(other.origin)
                            return value.origin  # via Meta.origin
                """,
        },
    ),
    "member of an enumeration that is the type of an attribute": (
        (*SCHEMAS, "Origin", "enum", "BANK"),
        {
            "wrapper/shop/names.py": NAMES.format(
                **MARKS | {"origin": "  # via ORIGIN", "bank": "  # via Origin.BANK"}
            ),
            "wrapper/shop/_api.py": PINS.format(origin="  # via ORIGIN", member=""),
            "wrapper/shop/read.py": """
                from .names import ORIGIN, Meta, Origin
                def read(headers: dict[str, str]) -> Meta:
                    return Meta(origin=Origin(headers[ORIGIN]))  # via Meta.origin, ORIGIN
                BANKS = (
                    Origin.BANK,  # via Origin.BANK
                    Origin.SHOP,
                    "BANK",
                )
                """,
        },
    ),
    "member of a Literal": (
        (*SCHEMAS, "Answer", "properties", "amount"),
        {
            "wrapper/shop/names.py": NAMES.format(**MARKS | {"member": "  # via Member"}),
            "wrapper/shop/_api.py": PINS.format(origin="", member="  # direct"),
            "wrapper/shop/read.py": """
                from typing import get_args
                from attrs import frozen
                from .names import Member
                MEMBERS = get_args(Member)  # via Member
                FIRST: tuple[Member, ...] = ("amount",)  # via Member
                SECOND: tuple[Member, ...] = ("note",)
                @frozen
                class Body:
                    members: dict[str, object]
                    def get(self, name: Member) -> object:
                        return self.members.get(name)
                @frozen
                class Part:
                    size: int
                def parts(body: Body):
                    for one in [body.get("amount")]:  # via Member
                        yield Part(size=one)  # via Part.size
                @frozen
                class Payment:
                    sum: int
                    note: str
                    flags: int
                class PaymentError(Exception):
                    text: str
                class AmountError(PaymentError):
                    amount: str
                def read(body: Body, other: dict[str, object]) -> Payment:
                    found, note = number(body.get("amount")), body.get("note")  # via Member
                    own = other.get("amount")
                    return Payment(  # via Payment.sum
                        sum=found,
                        note=note,
                        flags=own,
                    )
                def number(value: object) -> int:
                    return int(value)
                def amount(body: Body) -> object:
                    return body.get(name="amount")  # via Member
                def all_of(body: Body):
                    return [body.get(name) for name in FIRST]  # via Member, FIRST
                def error(body: Body) -> PaymentError:
                    kind, facts = chosen(body)
                    return kind(text="", **facts)
                def chosen(body: Body) -> tuple[type[PaymentError], dict[str, object]]:
                    return AmountError, {
                        "amount": amount(body),
                        "text": body.get("note"),
                    }
                """,
            "testing/kit/use.py": """
                from shop.read import AmountError, Body, Payment, MEMBERS
                def use(payment: Payment, body: Body, error: AmountError):
                    print(payment.sum, payment.flags)  # via Payment.sum
                    print(body.members.get("amount"), payment.note, "amount")
                    print(error.amount)  # via AmountError.amount
                    print(error.text)
                    return MEMBERS  # via MEMBERS
                """,
        },
    ),
    "code that looks something up in the contract": (
        OPERATION,
        {
            "testing/kit/read.py": """
                def operation(document: dict[str, object]) -> object:
                    document["paths"]["/pay"]["get"]
                    document["components"]["/pay"]["post"]
                    yield document["paths"]["/pay"]["post"]["responses"]  # via openapi.yaml
                    return document["paths"]["/pay"]["post"]  # via openapi.yaml
                """,
        },
    ),
}


def dedent(text: str) -> str:
    """Remove the indentation of the case, so that line 2 is its first line."""
    return re.sub(r"^ {16}", "", text, flags=re.MULTILINE)


def marked(sources: dict[str, str]) -> set[tuple[str, int, str]]:
    """Return the file, line and name of each comment."""
    return {
        (file, number, name.strip())
        for file, text in sources.items()
        for number, line in enumerate(text.splitlines(), start=1)
        for names in re.findall(r"# (direct$|via .*)", line)
        for name in names.replace("direct", "").removeprefix("via ").split(",")
    }


@pytest.mark.parametrize(("place", "sources"), CASES.values(), ids=CASES)
def test_exactly_the_marked_lines_are_consumers(
    tmp_path: Path, place: tuple[str, ...], sources: dict[str, str]
) -> None:
    sources = {file: dedent(text) for file, text in sources.items()}
    for file, text in sources.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, "utf-8")
        ast.parse(text)
    found = Code(tmp_path).consumers(CONTRACT, place)
    assert {(one.file, one.line, one.via) for one in found} == marked(sources)
    assert found == sorted(found, key=lambda one: bool(one.via))


def test_the_code_that_reads_the_contract_from_its_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "testing/kit").mkdir(parents=True)
    (tmp_path / "testing/kit/read.py").write_text(
        'FILE = "openapi.yaml"\n'
        "def read(folder):\n"
        '    path = folder / "openapi.yaml"\n'
        "    return path.read_text()\n"
    )
    (found,) = Code(tmp_path).readers()
    assert (found.file, found.line, found.scope) == ("testing/kit/read.py", 3, "read")


def symbols_of(place: tuple[str, ...]) -> set[str]:
    """Return the generated names of a place, each with the last part of its file."""
    found = Code(Path("none")).symbols(CONTRACT, place)
    return {f"{one.file.rpartition('/')[2]}: {one.name}" for one in found}


HEADER_SYMBOLS = {
    'contract.py: PayBillRequestHeaders["X-Shop-ID"]',
    "pay_bill.py: pay_bill.sync_detailed(x_shop_id)",
    "pay_bill.py: pay_bill.asyncio_detailed(x_shop_id)",
}
LIMIT = "contract.py: BILL_NOTE_MAX_LENGTH"
NOTE = {"bill.py: Bill.note", 'contract.py: BillMembers["note"]'}
KIND = {"bill.py: Bill.kind", 'contract.py: BillMembers["kind"]'}
KINDS = {'kind.py: Kind["card"]', 'kind.py: Kind["cash"]'}
SYMBOLS: list[tuple[tuple[str, ...], set[str]]] = [
    (("components", "parameters", "ShopId"), HEADER_SYMBOLS),
    (("components", "parameters", "ShopId", "name"), HEADER_SYMBOLS),
    (("components", "parameters", "ShopId", "x-blink-evidence"), HEADER_SYMBOLS),
    ((*OPERATION, "parameters", "0"), HEADER_SYMBOLS),
    ((*OPERATION, "parameters", "ShopId"), HEADER_SYMBOLS),
    ((*SCHEMAS, "ShopId", "pattern"), HEADER_SYMBOLS),
    ((*SCHEMAS, "ShopId", "maxLength"), {"contract.py: SHOP_ID_MAX_LENGTH"}),
    ((*SCHEMAS, "Bill", "properties", "note"), NOTE | {LIMIT}),
    ((*SCHEMAS, "Bill", "properties", "note", "maxLength"), {LIMIT}),
    ((*SCHEMAS, "Bill", "properties", "note", "description"), NOTE),
    ((*SCHEMAS, "Bill", "properties", "kind"), KIND),
    ((*SCHEMAS, "Bill", "required", "kind"), {"bill.py: Bill.kind"}),
    ((*SCHEMAS, "Kind", "enum"), KINDS),
    ((*SCHEMAS, "Kind", "enum", "cash"), {'kind.py: Kind["cash"]'}),
    ((*SCHEMAS, "Kind", "enum", "1"), {'kind.py: Kind["cash"]'}),
    ((*SCHEMAS, "Kind"), KINDS | {"kind.py: Kind"}),
    ((*RESPONSE, "headers", "X-Origin"), {'contract.py: PayBillResponseHeaders["X-Origin"]'}),
    (
        (*SCHEMAS, "Answer", "properties", "type"),
        {"answer.py: Answer.type_", 'contract.py: AnswerMembers["type"]'},
    ),
    # The other response has the header, too, so it does not go with this one.
    (RESPONSE, {"contract.py: PayBillStatus[200]"}),
    ((*RESPONSE, "description"), {"contract.py: PayBillStatus[200]"}),
    (("info", "description"), set()),
    (("servers", "0", "url"), set()),
]


@pytest.mark.parametrize(("place", "names"), SYMBOLS, ids=[".".join(p) for p, _ in SYMBOLS])
def test_the_generated_names_of_a_place(place: tuple[str, ...], names: set[str]) -> None:
    assert symbols_of(place) == names


def test_every_name_of_the_contract_is_in_the_generated_code() -> None:
    contract = yaml.safe_load((PROJECT / "spec/openapi.yaml").read_text("utf-8"))
    symbols = {one.symbol for one in made_names(contract).values() if one.symbol}
    assert len(symbols) > 100
    for symbol in symbols:
        text = (PROJECT / symbol.file).read_text("utf-8")
        owner, *members = re.findall(r"[\w-]+", symbol.name)
        for name in members:
            assert re.search(rf"""["'\s]{name}\b|\[{name}\b""", text), symbol
        assert owner in text or symbol.file.endswith(f"/{owner}.py"), symbol


def test_the_generated_code_has_no_name_that_is_missing_here() -> None:
    contract = yaml.safe_load((PROJECT / "spec/openapi.yaml").read_text("utf-8"))
    made = {key[1] for key in made_names(contract) if key[0] == "contract"}
    tree = ast.parse((PROJECT / "generated/blink_oauth_api/contract.py").read_text("utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    stored = [one for one in ast.walk(tree) if isinstance(one, ast.Name)]
    values = {one.id for one in stored if isinstance(one.ctx, ast.Store) and one.id[0].isupper()}
    assert made == classes | values


def test_names_that_the_other_version_has_as_well_do_not_count(tmp_path: Path) -> None:
    other = deepcopy(CONTRACT)
    other["components"]["parameters"]["ShopId"]["name"] = "X-ShopID"
    (tmp_path / "wrapper").mkdir()
    (tmp_path / "wrapper/api.py").write_text(
        "from blink_oauth_api import contract\n"
        "from blink_oauth_api.api.bills import pay_bill\n"
        "pay_bill.sync(x_shop_id='1')\n"
        "def check(headers: contract.PayBillRequestHeaders):\n"
        "    return headers['X-Shop-ID']\n"
    )
    code, place = Code(tmp_path), ("components", "parameters", "ShopId", "name")
    # The parameter is `x_shop_id` in both versions.
    assert {one.line for one in code.consumers(CONTRACT, place)} == {3, 5}
    assert {one.line for one in code.consumers(CONTRACT, place, other)} == {5}


def test_the_scope_of_a_consumer_is_its_class_and_function(tmp_path: Path) -> None:
    (tmp_path / "wrapper").mkdir()
    (tmp_path / "wrapper/api.py").write_text(
        "from blink_oauth_api import contract\n"
        "class Api:\n"
        "    def path(self):\n"
        "        return (lambda: contract.PAY_BILL_PATH)()\n"
        "PATH = contract.PAY_BILL_PATH\n"
    )
    found = Code(tmp_path).consumers(CONTRACT, ("paths", "/pay"))
    assert [(one.file, one.line, one.scope) for one in found] == [
        ("wrapper/api.py", 4, "Api.path"),
        ("wrapper/api.py", 5, ""),
    ]
