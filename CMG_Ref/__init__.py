"""The reference Conditional Motion Generator: model, data, training and evaluation."""

from CMG_Ref import interrupts

interrupts.end_at_once(__name__)
