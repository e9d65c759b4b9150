"""A page in the browser on which a robot walks in real time, in plain MuJoCo, to be driven by keys and sliders."""
