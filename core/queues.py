"""Queue names and the names of the messages on them. A message is only a wake-up that carries a job's id."""

from __future__ import annotations

from core.words import JobKind

TRAIN, RENDER, CPU, MAIL = "train", "render", "cpu", "mail"
ALL = (TRAIN, RENDER, CPU, MAIL)

RUN_TRAINING = "likeness.run_training"
RUN_PORTRAIT = "likeness.run_portrait"
SEND_MAIL = "likeness.send_mail"

QUEUE_OF = {RUN_TRAINING: TRAIN, RUN_PORTRAIT: RENDER, SEND_MAIL: MAIL}
MESSAGE_OF = {JobKind.TRAINING: RUN_TRAINING, JobKind.PORTRAIT: RUN_PORTRAIT}
