"""Imported by the process that all computers are forked from: what takes long, and is always the
same, is worked out there once."""

import functools

import pipeline.tenancy
from chaos import controller  # noqa: F401  # what it imports takes long, too
from infra.stackscripts import TRAINER, requirements
from infra.wheel import BOX, build_wheel

pipeline.tenancy.requirements = functools.cache(requirements)
pipeline.tenancy.build_wheel = functools.cache(build_wheel)
pipeline.tenancy.requirements(TRAINER)
pipeline.tenancy.build_wheel(BOX)
