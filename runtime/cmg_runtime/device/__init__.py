"""What every kind of device needs: graphs, kernels compiled at run time, precision, memory, forks, ends."""
