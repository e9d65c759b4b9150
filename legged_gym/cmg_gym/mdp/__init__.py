"""The terms of the task, as mjlab's managers take them: commands, actions, observations, rewards, curriculum."""
