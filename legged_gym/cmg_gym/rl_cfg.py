"""PPO settings: those of mjlab's velocity tasks, with less exploration noise, since the residual starts near zero.

The algorithm is rsl_rl's, but that several GPUs normalise alike.
"""

from __future__ import annotations

from mjlab.rl import RslRlModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

from cmg_gym.robots import G1, RobotCfg

STEPS_PER_ITERATION = 24


def make_rl_cfg(robot: RobotCfg = G1) -> RslRlOnPolicyRunnerCfg:
    """The runner's configuration."""
    return RslRlOnPolicyRunnerCfg(
        actor=RslRlModelCfg(
            hidden_dims=robot.hidden_dims,
            activation="elu",
            obs_normalization=True,
            distribution_cfg={"class_name": "GaussianDistribution", "init_std": 0.5, "std_type": "scalar"},
        ),
        critic=RslRlModelCfg(hidden_dims=robot.hidden_dims, activation="elu", obs_normalization=True),
        algorithm=RslRlPpoAlgorithmCfg(
            class_name="cmg_gym.ppo:SharedNormalizationPPO",
            value_loss_coef=1.0,
            use_clipped_value_loss=True,
            clip_param=0.2,
            entropy_coef=0.005,
            num_learning_epochs=5,
            num_mini_batches=4,
            learning_rate=1.0e-3,
            schedule="adaptive",
            gamma=0.99,
            lam=0.95,
            desired_kl=0.01,
            max_grad_norm=1.0,
        ),
        experiment_name=f"cmg_residual_{robot.name}",
        logger="tensorboard",
        upload_model=False,
        save_interval=1,
        num_steps_per_env=STEPS_PER_ITERATION,
        max_iterations=3_000,
    )
