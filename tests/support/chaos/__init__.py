"""Every act of a rental goes wrong in every way that fits it, one at a time, and nothing is lost.

    python -m chaos [--shard 1/2] [--case ID] [--go-on FILE]

A clean run is recorded first: each request to the provider, each write to the store, each command
over SSH, each process and stage is a boundary. A case is one boundary and one fault. After it a
computer that knows nothing but the store and the token goes on with the run, or reaps it, and the
judge looks at what is left, what was paid, and what was learned.

    wire.py        proxies before the provider and the store, and what passes them
    faults.py      what can go wrong, and where it fits
    job.py         what is trained: numbers, in no time, through the protocol of a real one
    controller.py  who rents: a process of its own, which can be killed
    world.py       the provider, the store, the machines, and a case from beginning to end
    judge.py       what must hold after each case
"""
