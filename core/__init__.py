"""OneCard's core: a resident base model, its adapters, training and answering. Knows no gradio and no browser."""

import os

__version__ = "0.1.0"

# Must stand before torch is first imported anywhere: with OpenMP's default (spinning) wait, two busy neighbours slowed
# LoRA steps on a 2-core machine from 6.7 to 0.62 a second; passive keeps 2.46 under the same load.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A fiftieth of a millisecond of spinning before that: two threads that fall asleep after every product are no faster than one.
# Steps of the pocket model on 2 cores, in seconds, without and with it: 0.18 and 0.10 on a machine at rest, 0.18 and 0.27
# beside one busy neighbour (ten times as much spinning: 0.56), 0.25 and 0.30 beside two.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# The same: tensors of 2 MB and more in pages of 2 MB. A merge of 3.6 GB took 850,000 page faults and 3.4 s of the kernel's
# time without, 13,000 and 0.8 s with it; training on the processor is the same.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
