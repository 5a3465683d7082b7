"""A small job in place of a training: the same folder, checkpoints, log and progress, no torch.

Its state after a step is the SHA-256 of the state before it and the step's number, so that only
whoever did each step once, in order, ends with the right one.
"""

import hashlib
import json

STEPS, EVERY = 12, 3  # steps in all, and between two checkpoints
_SECONDS = 0.05  # a step

CODE = f"""
import hashlib, json, os, pathlib, shutil, time

out = pathlib.Path("out")
done = sorted(out.glob("checkpoints/*/manifest.json"))
state, step = "", 0
if done:
    blob = (done[-1].parent / "blob").read_bytes()
    assert hashlib.sha256(blob).hexdigest() == json.loads(done[-1].read_bytes())["sha256"]
    step, state = blob.decode().split()
    step = int(step)
print("begins at", step, flush=True)
while step < {STEPS}:
    time.sleep({_SECONDS})
    step += 1
    state = hashlib.sha256(f"{{state}} {{step}}".encode()).hexdigest()
    print("step", step, state[:8], flush=True)
    with (out / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({{"step": step}}) + "\\n")
    part = out / ".progress"
    part.write_text(json.dumps({{"step": step, "total_steps": {STEPS}}}))
    part.rename(out / "progress.json")
    if step % {EVERY} == 0:
        blob = f"{{step}} {{state}}".encode()
        folder = out / "checkpoints" / f".{{step}}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "blob").write_bytes(blob)
        said = {{"sha256": hashlib.sha256(blob).hexdigest(), "weights_digest": state}}
        (folder / "manifest.json").write_text(json.dumps(said))
        folder.rename(out / "checkpoints" / f"{{step:08d}}")
        for old in sorted(out.glob("checkpoints/0*"))[:-2]:
            (old / "manifest.json").unlink()
            shutil.rmtree(old)
print("ends", flush=True)
"""


def state_after(steps: int) -> str:
    """What the job ends with when it was never disturbed."""
    state = ""
    for step in range(1, steps + 1):
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
    return state


def digest_in(blob: bytes, manifest: bytes) -> str:
    """What a checkpoint ends with, ours or a trainer's. Raises ValueError for a damaged one."""
    said = json.loads(manifest)
    if hashlib.sha256(blob).hexdigest() != said["sha256"]:
        raise ValueError("a checkpoint whose blob is not what its manifest says")
    return str(said["weights_digest"])
