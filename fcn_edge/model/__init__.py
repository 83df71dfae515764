"""Networks: backbones, score heads and the FCN itself; knows nothing about data, training or deployment."""
