"""Batches and decisions in a folder that outlives the process: `data_dir`.

Chunks enter as they arrive and decisions as they are made (`Store` satisfies `reservoir.ports.BatchStore`); what leaves
is the same rows in mapped memory, and after a restart the `State` that the decisions add up to. The room must not know
grpc, Flight or Pub/Sub, nor why anything was decided.

`journal` is the file of decisions and `framing` its bytes, `segments` the files of rows, `folder` whose they are:
these alone touch files, and `ports` says what the others need of them. `state` is what decisions add up to, `pending`
what is to be written and who waits for it, `writing` in which order it is, `recovery` how it is found again. `store`
puts all of them behind one writer thread. `spill` is the files of rows without the rest, for batches that outgrow
memory and need not outlive the process.
"""

from penstock.storage.ports import StoreFailed
from penstock.storage.recovery import Found, open_store
from penstock.storage.spill import Spill, open_spill
from penstock.storage.store import Store

__all__ = ["Found", "Spill", "Store", "StoreFailed", "open_spill", "open_store"]
