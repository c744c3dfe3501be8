"""The columns as Spark types: the same as `penstock.contract.ROWS_SCHEMA`."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql.types import (
    BinaryType,
    DataType,
    IntegerType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from penstock.contract import COLUMNS
from penstock.errors import InvalidOption

_TYPES: dict[str, DataType] = {
    "message_id": StringType(),
    "data": BinaryType(),
    "attributes": MapType(StringType(), StringType(), valueContainsNull=True),
    "publish_time": TimestampType(),
    "ordering_key": StringType(),
    "delivery_attempt": IntegerType(),
}


def spark_schema(columns: Sequence[str] | None) -> StructType:
    """The columns chosen, in order; all for None."""
    return StructType([StructField(name, _TYPES[name], nullable=True) for name in columns or COLUMNS])


def check_schema(said: StructType, columns: Sequence[str] | None) -> None:
    """Raise `InvalidOption` if a `.schema(…)` differs from the source's own."""
    own = spark_schema(columns)
    if [(field.name, field.dataType) for field in said] != [(field.name, field.dataType) for field in own]:
        raise InvalidOption(
            f".schema({_ddl(said)}) differs from what the source gives, {_ddl(own)}: leave .schema() out, choose "
            "columns with the option `columns`, and convert with select()"
        )


def _ddl(schema: StructType) -> str:
    return ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in schema)
