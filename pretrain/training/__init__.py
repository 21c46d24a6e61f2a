"""Steps, schedules, states: what `pretrain.train` is made of."""
