"""The official archives of CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST."""
